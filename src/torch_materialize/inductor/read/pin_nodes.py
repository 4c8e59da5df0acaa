"""Pins in an FX graph: which nodes are pins, what shares their tensor, who reads it.

Nodes are known by name, so that a look-up needs neither the operators nor torch's Inductor.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ...core.dag import Kind, Value
from .storage import mutates

__all__ = [
    "INLINE",
    "KEEP",
    "is_pin",
    "is_written",
    "pinned",
    "readers",
    "root_of",
    "source_line",
]

KEEP = "torch_materialize.keep.default"
INLINE = "torch_materialize.inline.default"

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_OURS = str(Path(__file__).parents[2] / "pins.py")


def is_pin(node: torch.fx.Node, kind: str = "") -> bool:
    """Whether a node is a pin, of one ``kind`` or of any."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    name = str(node.target)
    return name == kind if kind else name in (KEEP, INLINE)


def root_of(pin: torch.fx.Node) -> torch.fx.Node:
    """The node that computes what is pinned: behind views and other pins."""
    node = pin
    while node.all_input_nodes and _is_alias(node):
        node = node.all_input_nodes[0]
    return node


def readers(pin: torch.fx.Node) -> list[torch.fx.Node]:
    """The nodes that read the pinned tensor, through this pin or not, and through views."""
    found: dict[torch.fx.Node, None] = {}
    todo, seen = [root_of(pin)], set[torch.fx.Node]()
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        for user in node.users:
            if _is_alias(user) and user.all_input_nodes[0] is node:
                todo.append(user)
            else:
                found[user] = None
    return list(found)


def source_line(node: torch.fx.Node) -> str:
    """The model's innermost line behind a node, as ``file:line``; "" where that is unknown."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    places = [f"{file}:{line}" for file, line in frames if file != _OURS]
    return places[-1] if places else ""


_written: weakref.WeakKeyDictionary[torch.fx.Graph, frozenset[int]] = weakref.WeakKeyDictionary()


def is_written(node: torch.fx.Node) -> bool:
    """Whether something in the graph writes into a node's tensor.  For a finished graph only."""
    graph = node.graph
    if graph not in _written:
        _written[graph] = frozenset(
            storage for user in graph.nodes for x in _targets(user) for storage in _storages(x)
        )
    return not _written[graph].isdisjoint(_storages(node))


def pinned(
    of_node: Mapping[torch.fx.Node, Sequence[int]], values: Sequence[Value]
) -> tuple[frozenset[int], frozenset[int]]:
    """Values that pins keep and values that pins forbid to store, as far as a plan decides them."""
    kept, never = set[int](), set[int]()
    for node, indices in of_node.items():
        if is_pin(node):
            bases = {values[i].base for i in indices}
            mine = {i for i in bases if values[i].kind is Kind.POINTWISE}
            (kept if is_pin(node, KEEP) else never).update(mine)
    return frozenset(kept), frozenset(never - kept)


def _is_alias(node: torch.fx.Node) -> bool:
    """Whether a node is a pin or a view: what it returns is its first argument's memory."""
    if node.op != "call_function" or not node.all_input_nodes:
        return False
    if is_pin(node) or _is_view(node.target):
        return True
    return not _storages(node).isdisjoint(_storages(node.all_input_nodes[0]))


def _is_view(target: Any) -> bool:
    """Whether an operator never copies: its meta may say otherwise, where a pattern of Inductor's
    (attention that was written out, say) put it into the graph and traced it by itself.
    """
    if not isinstance(target, torch._ops.OpOverload) or not target.is_view:
        return False
    return not target.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)


def _storages(node: torch.fx.Node) -> frozenset[int]:
    leaves = pytree.tree_leaves(node.meta.get("val"))
    return frozenset(x.untyped_storage()._cdata for x in leaves if isinstance(x, torch.Tensor))


def _targets(node: torch.fx.Node) -> Iterator[torch.fx.Node]:
    """The arguments that a node writes into."""
    if "mutation" in str(node.target):  # a user's kernel: any of them
        yield from node.all_input_nodes
    elif mutates(node):
        schema = node.target._schema
        given = dict(zip((a.name for a in schema.arguments), node.args, strict=False))
        for argument in schema.arguments:
            if argument.alias_info is not None and argument.alias_info.is_write:
                value = {**given, **node.kwargs}.get(argument.name)
                leaves = pytree.tree_leaves(value)
                yield from (x for x in leaves if isinstance(x, torch.fx.Node))
