"""A joint graph of forward and backward, as far as it matters what the forward saves."""

from __future__ import annotations

import functools
import operator
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch._functorch import partitioners
from torch.fx import Graph, Node
from torch.utils.checkpoint import CheckpointPolicy

from ..read.pin_nodes import INLINE, is_pin

__all__ = ["Joint"]

# The result of a reduction is small, and computing it reads everything once more: it is saved.
# Upstream's own measure (`MinCutOptions.ban_if_reduction`).
_REDUCED = 4
_SAVED_BY_TAG = (CheckpointPolicy.MUST_SAVE, CheckpointPolicy.PREFER_SAVE)


def _remembered(answer: Callable[[Joint, Node], bool]) -> Callable[[Joint, Node], bool]:
    """Answers a question about a node once."""

    @functools.wraps(answer)
    def ask(self: Joint, node: Node) -> bool:
        known = self._answers[answer.__name__]
        if node not in known:
            known[node] = answer(self, node)
        return known[node]

    return ask


@dataclass
class Joint:
    """One joint graph, and what upstream's partitioner knows of it.

    Attributes:
        graph: forward and backward in one, in an order in which they can run.
        info: upstream's ``NodeInfo``.
        saved: what upstream saves.
    """

    graph: Graph
    info: Any
    saved: list[Node]

    def __post_init__(self) -> None:
        self._answers: defaultdict[str, dict[Node, bool]] = defaultdict(dict)
        self._given = set(self.info.inputs)
        self._types = partitioners.get_default_op_list()
        self._roots: dict[Node, Node] = {}
        self._sizes: dict[Node, int] = {}

    @cached_property
    def nodes(self) -> list[Node]:
        """All nodes but the output, in order."""
        return [node for node in self.graph.nodes if node.op != "output"]

    @cached_property
    def place(self) -> dict[Node, int]:
        """Where each node stands in the graph."""
        return {node: number for number, node in enumerate(self.nodes)}

    @cached_property
    def backward(self) -> set[Node]:
        """What only the backward can compute: it depends on a tangent."""
        return {node for node in self.info.tangents_closure if node.op != "output"}

    @cached_property
    def forward(self) -> list[Node]:
        """What the forward can compute, in order."""
        return [node for node in self.nodes if node not in self.backward]

    @cached_property
    def needed(self) -> list[Node]:
        """What the backward needs of the forward, whoever computes it, in the graph's order."""
        wanted = {x for node in self.backward for x in node.all_input_nodes} - self.backward
        wanted |= {x for x in self.info.required_bw_nodes if x not in self.backward}
        return [node for node in self.nodes if node in wanted]

    @cached_property
    def inlined(self) -> list[Node]:
        """What the model pins as never written, and stock saves: :meth:`root` of each."""
        roots = dict.fromkeys(self.root(node) for node in self.saved)
        return [root for root in roots if is_pin(root, INLINE)]

    @cached_property
    def recomputed(self) -> set[Node]:
        """What the backward computes once more where stock's choice is saved."""
        return self.recomputed_beside(self.saved)

    def recomputed_beside(self, saved: Iterable[Node]) -> set[Node]:
        """What the backward computes once more where ``saved`` is saved."""
        found: set[Node] = set()
        stocks = set(saved)
        todo = list(self.needed)
        while todo:
            node = todo.pop()
            known = node in found or node in stocks or node in self.backward
            if not known and node.op == "call_function":
                found.add(node)
                todo.extend(node.all_input_nodes)
        return found

    @cached_property
    def returned(self) -> set[Node]:
        """The storages that the forward returns to its caller."""
        saved = {node for node in self.nodes if self.info.is_required_fw(node)}
        output = next(iter(self.graph.find_nodes(op="output")))
        return {self.root(x) for x in output.all_input_nodes if x in saved}

    @cached_property
    def returned_gradients(self) -> set[Node]:
        """What the backward returns of what it computes without a tangent."""
        output = next(iter(self.graph.find_nodes(op="output")))
        mine = {x for x in output.all_input_nodes if x in self.info.required_bw_nodes}
        return mine - self.backward

    @_remembered
    def is_fusible(self, node: Node) -> bool:
        """Whether Inductor makes loops of it; views count, too."""
        return self._types.is_fusible(node) or self.is_view(node)

    @_remembered
    def is_view(self, node: Node) -> bool:
        """Whether it has no data of its own."""
        if node.op != "call_function":
            return False
        return self._types.is_view(node) or node.target is torch.ops.aten.reshape.default

    def is_size(self, node: Node) -> bool:
        """Whether it is a symbolic integer and no tensor."""
        return isinstance(node.meta.get("val"), torch.SymInt)

    def is_tensor(self, node: Node) -> bool:
        """Whether it is one tensor: no tuple, no number."""
        return isinstance(node.meta.get("val"), torch.Tensor)

    def is_given(self, node: Node) -> bool:
        """Whether the forward gets it from its caller."""
        return node in self._given

    def root(self, node: Node) -> Node:
        """Whose memory it shows, through views, and through the parts of a tuple."""
        if node not in self._roots:
            self._roots[node] = node
            through = self.is_view(node) or node.target is operator.getitem
            if through and isinstance(node.args[0], Node):
                self._roots[node] = self.root(node.args[0])
        return self._roots[node]

    def owner(self, node: Node) -> Node:
        """The node whose storage it shares: as :meth:`root`, parts of a tuple told apart."""
        while self.is_view(node) and isinstance(node.args[0], Node):
            node = node.args[0]
        return node

    def nbytes(self, node: Node) -> int:
        """Bytes of a tensor under size hints; 0 of what is none."""
        if node not in self._sizes:
            self._sizes[node] = int(partitioners._size_of(node)) if self.is_tensor(node) else 0
        return self._sizes[node]

    def saved_bytes(self, saved: Iterable[Node]) -> int:
        """Bytes that the forward keeps for the backward: each storage once, no graph inputs."""
        owners = {self.owner(node) for node in saved}
        return sum(self.nbytes(node) for node in owners if node.op != "placeholder")

    @_remembered
    def may_recompute(self, node: Node) -> bool:
        """Whether loops can compute it again, at the cost of what they read."""
        if node in self.recomputed or is_pin(node, INLINE):
            return True
        if node.op != "call_function" or not self._is_pure(node):
            return False
        if node.target is operator.getitem:
            parent = node.args[0]
            return isinstance(parent, Node) and self.may_recompute(parent)
        if not self._types.is_recomputable(node):
            return False
        inputs = sum(self.nbytes(x) for x in node.all_input_nodes)
        return self.result_bytes(node) * _REDUCED >= inputs or self.is_view(node)

    @_remembered
    def may_run_again(self, node: Node) -> bool:
        """Whether it is a matmul or an attention, which can run again, at the cost of its work."""
        if node.op != "call_function" or not self._is_pure(node):
            return False
        # Attention with dropout draws its mask inside.
        draws = any(isinstance(x, float) and x > 0 for x in node.args[3:7])
        attention = "_attention" in str(node.target)
        return self._types.is_compute_intensive(node) and not (attention and draws)

    def why_saved(self, node: Node) -> str:
        """Why something that the backward needs is never recomputed; "" where it may be."""
        root = self.root(node)
        if self.may_recompute(root) or self.may_run_again(root):
            return ""
        if root.meta.get("recompute") in _SAVED_BY_TAG:
            return "tagged to be saved"
        if self._types.is_random(root):
            return "random"
        if self._types.is_compute_intensive(root):
            return "attention with dropout"
        if self._is_pure(root) and self._types.is_recomputable(root):
            return "small beside its inputs"
        return "not run twice"

    @_remembered
    def is_recomputed_anyway(self, node: Node) -> bool:
        """Whether the user wants it recomputed (``torch.utils.checkpoint``)."""
        return bool(partitioners.must_recompute(node))

    def _is_pure(self, node: Node) -> bool:
        if node.meta.get("recompute") in _SAVED_BY_TAG or self._types.is_random(node):
            return False
        if isinstance(node.target, torch._ops.OpOverload):
            collective = node.target.namespace in ("_c10d_functional", "c10d_functional")
            return not collective and not node.target._schema.is_mutable
        return not isinstance(node.target, torch._ops.HigherOrderOperator)

    def result_bytes(self, node: Node) -> int:
        """Bytes of all that an operator returns and somebody uses."""
        value = node.meta.get("val")
        if isinstance(value, list | tuple):
            return sum(self.nbytes(user) for user in node.users)
        return self.nbytes(node)

    @_remembered
    def is_in_memory(self, node: Node) -> bool:
        """Whether the forward writes it to memory, saved or not: something that is not fused
        makes it or reads it, or the caller gets it.
        """
        owner = self.owner(node)
        if owner.op != "call_function" or not self.is_fusible(owner):
            return True
        if owner.target is operator.getitem and not self.is_fusible(self.root(owner)):
            return True
        return self.root(node) in self.returned or self.read_unfused(owner, self.backward)

    def read_unfused(self, owner: Node, apart_from: set[Node]) -> bool:
        """Whether a kernel that is no loop reads it, of those that are not ``apart_from``."""
        todo = [owner]
        while todo:
            for user in todo.pop().users:
                if user.op == "output" or user in apart_from:
                    continue
                if self.is_view(user):
                    todo.append(user)
                elif not self.is_fusible(user):
                    return True
        return False
