"""Repeated layers: plan a few of them, decide the rest alike.

A stack of layers is a run of FX nodes that repeats itself: the same operators on the same
shapes, each reading what its counterpart one layer before read, one layer later.  What a dry
run and a solve say about the middle of a stack they say about every layer of it, so planning
leaves most layers out, and its time does not grow with their number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch._inductor import inductor_prims
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate, map_arg
from torch.utils import _pytree as pytree

from ..read.storage import mutates
from .post_grad import PostGrad

__all__ = ["Shortened", "shorten"]

# Layers that stay.  The first and the last have other neighbours than the rest, and what is
# copied to the layers left out is decided by the two between, together: two, since what one
# decides makes what the next one sees.
_HEAD = 2
_TAIL = 2
# Distances between equal nodes that are tried as the length of a layer.
_PERIODS = 8
# Stacks that are left out of one graph, and that are tried for each: every try copies the graph,
# and a graph of many short stacks would take longer to shorten than to plan.
_STACKS = 16
_TRIES = 8
_LOOKUP_SEED = inductor_prims.lookup_seed


@dataclass(frozen=True)
class _Stack:
    """``count`` layers of ``period`` nodes each; the first node is at ``start``."""

    start: int
    period: int
    count: int

    @property
    def size(self) -> int:
        return self.period * self.count


@dataclass(frozen=True)
class Shortened:
    """A graph with most of its repeated layers left out.

    Attributes:
        graph: what is left; its nodes have the names that they had.
        alike: groups of node names, counterparts in different layers, that are to be decided
            alike so that the layers left out can be, too.
        copies: name of each node left out -> name of its counterpart in ``graph``.
    """

    graph: PostGrad
    alike: tuple[tuple[str, ...], ...] = ()
    copies: tuple[tuple[str, str], ...] = ()

    def expand(self, names: frozenset[str]) -> frozenset[str]:
        """``names`` of the shortened graph, and of the layers left out whatever equals them."""
        return names | {left_out for left_out, kept in self.copies if kept in names}

    def spread(self, names: frozenset[str]) -> frozenset[str]:
        """``names``, and the counterparts that are to be decided like them."""
        return names.union(*(group for group in self.alike if names.intersection(group)))


def shorten(graph: PostGrad) -> Shortened:
    """``graph`` without most of its repeated layers; itself where nothing repeats enough.

    An encoder and a decoder are two stacks, both shortened; of very many the largest.  Time:
    linear in the nodes.
    """
    result = Shortened(graph)
    for _ in range(_STACKS):
        step = _shorten_once(result.graph)
        if step is None:
            break
        result = Shortened(step.graph, result.alike + step.alike, result.copies + step.copies)
    return result


def _shorten_once(graph: PostGrad) -> Shortened | None:
    nodes = list(graph.module.graph.nodes)
    for stack in _stacks(nodes)[:_TRIES]:
        module = _without_middle(graph.module, nodes, stack)
        if module is not None:
            inner = [*range(1, _HEAD), *range(stack.count - _TAIL, stack.count - 1)]
            alike = [
                tuple(nodes[stack.start + layer * stack.period + place].name for layer in inner)
                for place in range(stack.period)
            ]
            copies = [
                (nodes[i].name, nodes[_last_of_head(stack) + (i - stack.start) % stack.period].name)
                for i in _middle(stack)
            ]
            # A compile lowers all layers: what is lowered of this graph cannot be its own.
            short = replace(graph, module=module, handover=None)
            return Shortened(short, tuple(alike), tuple(copies))
    return None


def _last_of_head(stack: _Stack) -> int:
    return stack.start + (_HEAD - 1) * stack.period


def _middle(stack: _Stack) -> range:
    first = stack.start + _HEAD * stack.period
    return range(first, stack.start + (stack.count - _TAIL) * stack.period)


# Finding.


def _stacks(nodes: Sequence[Node]) -> list[_Stack]:
    """Stacks worth shortening, the largest first."""
    place = {node: i for i, node in enumerate(nodes)}
    signatures = _signatures(nodes)
    found = [
        stack
        for period in _likely_periods(nodes, signatures)
        for stack in _stacks_of(nodes, place, signatures, period)
    ]
    return sorted(found, key=lambda stack: (-stack.size, stack.period))


def _likely_periods(nodes: Sequence[Node], signatures: Sequence[Any]) -> list[int]:
    last: dict[Any, int] = {}
    gaps: Counter[int] = Counter()
    for i, signature in enumerate(signatures):
        if nodes[i].op == "call_function":
            if signature in last:
                gaps[i - last[signature]] += 1
            last[signature] = i
    return [gap for gap, _ in gaps.most_common(_PERIODS)]


def _stacks_of(
    nodes: Sequence[Node], place: dict[Node, int], signatures: Sequence[Any], period: int
) -> Iterable[_Stack]:
    """Maximal runs of nodes of which each equals the one a ``period`` later."""
    run = 0
    pairs: dict[Node, Node] = {}
    for i in range(len(nodes) - period + 1):
        later = i + period
        alike = later < len(nodes) and signatures[i] == signatures[later]
        if alike and _same_inputs(nodes[i], nodes[later], place, period, pairs):
            run += 1
            continue
        count = run // period + 1
        if count > _HEAD + _TAIL:
            yield _Stack(i - run, period, count)
        run = 0
        pairs = {}


def _same_inputs(
    one: Node, other: Node, place: dict[Node, int], period: int, pairs: dict[Node, Node]
) -> bool:
    """Whether two nodes read the same, their own layer's, or corresponding graph inputs.

    ``pairs`` remembers which graph input corresponds to which.
    """
    if one.op != "call_function" or len(one.all_input_nodes) != len(other.all_input_nodes):
        return False
    for a, b in zip(one.all_input_nodes, other.all_input_nodes, strict=True):
        if a is b:
            continue
        if a.op != "call_function" and b.op != "call_function":
            # The next layer's weight; read twice in a layer, it is one weight there, too.
            if pairs.setdefault(a, b) is not b:
                return False
        elif place[b] - place[a] != period:
            return False
    return True


def _signatures(nodes: Sequence[Node]) -> list[Any]:
    """What each node is, apart from which nodes it reads."""
    described = {node: _described(node.meta.get("val")) for node in nodes}
    outputs = {x for node in nodes if node.op == "output" for x in node.all_input_nodes}

    def plain(argument: Any) -> str:
        return "#" if isinstance(argument, Node) else repr(argument)

    def arguments(node: Node) -> str:
        if node.target is _LOOKUP_SEED:
            return ""  # each dropout has a seed of its own, at a place of its own
        return str(map_aggregate((node.args, node.kwargs), plain))

    return [
        (
            str(node.target) if node.op == "call_function" else node.op,
            arguments(node),
            tuple(described[x] for x in node.all_input_nodes),
            described[node],
            node in outputs,
        )
        for node in nodes
    ]


def _described(value: Any) -> str:
    return str(
        [
            f"{x.dtype}{tuple(x.shape)}{x.stride() if x.layout == torch.strided else x.layout}"
            if isinstance(x, torch.Tensor)
            else repr(x)
            for x in pytree.tree_leaves(value)
        ]
    )


# Leaving out.


def _without_middle(
    module: GraphModule, nodes: Sequence[Node], stack: _Stack
) -> GraphModule | None:
    """A copy whose tail layers read the head's last; None where something forbids it.

    Outputs of the layers left out become None, so that the rest keep their places.
    """
    place = {node: i for i, node in enumerate(nodes)}
    middle = _middle(stack)
    short = Graph()
    copied: dict[Node, Node] = {}

    def counterpart(node: Node) -> Node:
        i = place[node]
        # Nodes of the first tail layer read what the layer before them made.
        return copied[node if i not in middle else nodes[i - len(middle)]]

    for i, node in enumerate(nodes):
        if i in middle:
            continue
        missing = [x for x in node.all_input_nodes if place[x] in middle]
        if node.op == "output":
            copied[node] = _copy_output(short, node, missing, copied)
            continue
        if missing and mutates(node) and not node.users:
            continue  # writes back what a layer left out has made
        if missing and i not in range(middle.stop, stack.start + stack.size):
            return None  # somebody behind the stack looks into its middle
        if any(place[x] - len(middle) < stack.start for x in missing):
            return None  # further back than the head is long
        copied[node] = short.node_copy(node, counterpart)
        copied[node].name = node.name
    result = GraphModule(module, short)
    result.meta = dict(module.meta)
    return result


def _copy_output(
    short: Graph, node: Node, missing: Sequence[Node], copied: dict[Node, Node]
) -> Node:
    """The output node of a shortened graph; None stands for what is ``missing``."""
    kept = map_aggregate(node.args[0], lambda x: None if x in missing else x)
    copy = short.output(map_arg(kept, copied.__getitem__))
    copy.meta = dict(node.meta)
    visible = copy.meta.get("user_visible_output_idxs")
    if visible is not None:
        there = pytree.tree_leaves(kept, is_leaf=lambda x: x is None)
        copy.meta["user_visible_output_idxs"] = [i for i in visible if there[i] is not None]
    return copy
