"""Whether a plan could save anything at all, told from a post-grad graph without lowering it.

A dry run is as dear as Inductor's own lowering, and a step of an optimizer is hundreds of nodes
that no plan can improve.  What a plan decides is whether a value that nobody has to see is written
or computed again, so it can only save bytes where such a value is needed in more than one place,
or where Inductor writes one that is not fused with what reads it.  Here the first is bounded, and
graphs for which the second cannot be ruled out are not judged: the only ones that are consist of
pointwise operators, between tensors of one shape and layout wherever they meet.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch._inductor import lowering

from ...core.limits import Limits
from ..fx.post_grad import PostGrad

__all__ = ["Saving", "most_saved", "nothing_to_gain"]

_COPY = torch.ops.aten.copy_.default
# Pointwise, though they do not say so; a constant is written into the code of its users.
_POINTWISE = frozenset({torch.ops.prims.convert_element_type.default, torch.ops.aten.full.default})
_JUDGED = (torch.float32, torch.float64, torch.int32, torch.int64, torch.bool)
# Nodes whose loops Inductor certainly fuses: it stops at 64 (`config.max_fusion_size`).
_FUSED = 48
# What planning goes by may weigh a byte more than its usual time; see Limits.weights.
_CAUTION = 4


@dataclass(frozen=True)
class Saving:
    """Bytes: the ``most`` that a plan can save, and the ``least`` that every choice moves."""

    most: int
    least: int


def nothing_to_gain(graph: PostGrad, limits: Limits) -> bool:
    """Whether no plan for ``graph`` can promise what would be worth its dry run.

    Then nothing has to be rounded either: it has no value of fewer digits than fp32.
    """
    saving = most_saved(graph.module.graph)
    if saving is None:
        return False
    worth = max(limits.worth * saving.least, limits.node_bytes * graph.nodes)
    return _CAUTION * saving.most < worth


def most_saved(graph: torch.fx.Graph) -> Saving | None:
    """What plans could save at most; None where that cannot be told."""
    nodes = list(graph.nodes)
    if not all(map(_is_judged, nodes)):
        return None
    ends = set(_ends(nodes))
    if not _fuse(nodes, ends):
        return None
    reached = _reached(nodes, ends)
    most = least = 0
    for node in nodes:
        if not _is_tensor(node):
            continue
        places, size = len(reached[node]), _nbytes(node)
        if node in ends or node.op == "placeholder":
            least += size if places or node in ends else 0
        elif _is_small(node):
            most += size * (1 + places)  # written, and read in each place
        elif places > 1:
            most += (places - 1) * sum(map(_nbytes, _behind(node, ends)))
    for node in nodes:
        if _is_tensor(node) and _is_small(node) and node.op == "placeholder":
            most += _nbytes(node) * len(reached[node])
    return Saving(most, least)


def _is_judged(node: torch.fx.Node) -> bool:
    if node.op == "output":
        return True
    if not _is_tensor(node) or node.meta["val"].dtype not in _JUDGED:
        return False
    if node.op == "placeholder":
        return True
    if node.target is _COPY:
        return not node.users and node.args[0].op == "placeholder" and len(node.args) == 2
    return node.op == "call_function" and _is_pointwise(node.target)


def _is_pointwise(target: object) -> bool:
    if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable:
        return False
    tags = target.tags
    if torch.Tag.nondeterministic_seeded in tags or target in lowering.fallbacks:
        return False
    known = torch.Tag.pointwise in tags or target in _POINTWISE
    return known and target in lowering.lowerings


def _is_tensor(node: torch.fx.Node) -> bool:
    """Whether a node is one plain tensor whose size is known."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
        return False
    return all(isinstance(extent, int) for extent in (*value.shape, *value.stride()))


def _is_small(node: torch.fx.Node) -> bool:
    return bool(node.meta["val"].numel() == 1)


def _nbytes(node: torch.fx.Node) -> int:
    value = node.meta["val"]
    return int(value.numel() * value.element_size())


def _ends(nodes: list[torch.fx.Node]) -> Iterator[torch.fx.Node]:
    """Values that are written whatever is decided: returned, or copied into an input."""
    for node in nodes:
        if node.op == "output":
            yield from node.all_input_nodes
        elif node.target is _COPY:
            yield node.args[1]


def _computed(node: torch.fx.Node) -> bool:
    return node.op == "call_function" and node.target is not _COPY


def _fuse(nodes: list[torch.fx.Node], ends: set[torch.fx.Node]) -> bool:
    """Whether Inductor certainly makes one loop of whatever is computed from one another.

    Everything there has one shape and one layout, apart from single numbers, and is not too much.
    """
    group = {node: node for node in nodes if _computed(node) and not _is_small(node)}

    def root(node: torch.fx.Node) -> torch.fx.Node:
        while group[node] is not node:
            group[node] = group[group[node]]
            node = group[node]
        return node

    for node in group:
        for other in node.all_input_nodes:
            if _is_small(other):
                continue
            if _layout(other) != _layout(node):
                return False
            if other in group:
                group[root(other)] = root(node)
    sizes: dict[torch.fx.Node, int] = {}
    for node in group:
        sizes[root(node)] = sizes.get(root(node), 0) + 1
    # What is copied into an input is read in the input's layout.
    copied = (node.args for node in nodes if node.target is _COPY)
    alike = all(_layout(into) == _layout(value) for into, value in copied)
    return alike and max(sizes.values(), default=0) <= _FUSED


def _layout(node: torch.fx.Node) -> tuple[object, ...]:
    value = node.meta["val"]
    return value.device, tuple(value.shape), value.stride()


def _reached(
    nodes: list[torch.fx.Node], ends: set[torch.fx.Node]
) -> dict[torch.fx.Node, frozenset[torch.fx.Node]]:
    """The ends that each value is needed for, by way of values that may be computed again."""
    reached: dict[torch.fx.Node, frozenset[torch.fx.Node]] = {}
    for node in reversed(nodes):
        users = [user for user in node.users if _computed(user)]
        through = (reached[user] for user in users if user not in ends)
        direct = (user for user in users if user in ends)
        reached[node] = frozenset(itertools.chain(direct, *through))
    return reached


def _behind(node: torch.fx.Node, ends: set[torch.fx.Node]) -> set[torch.fx.Node]:
    """What is in memory that computing a value reads."""
    found: set[torch.fx.Node] = set()
    seen, todo = {node}, [node]
    while todo:
        for other in todo.pop().all_input_nodes:
            if other.op == "placeholder" or other in ends:
                found.add(other)
            elif other not in seen:
                seen.add(other)
                todo.append(other)
    return found
