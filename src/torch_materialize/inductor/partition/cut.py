"""What the forward saves where some of what stock saves is recomputed instead."""

from __future__ import annotations

from collections.abc import Collection, Set
from dataclasses import dataclass

from torch.fx import Node

from .joint import Joint

__all__ = ["Cut", "cut"]

# A value that the forward does not write yet costs a write, and a read: upstream's weight, too.
_NOT_WRITTEN = 2
_NEVER = float("inf")


@dataclass(frozen=True)
class Cut:
    """One choice.

    Attributes:
        saved: what the backward gets from the forward, in the graph's order: tensors, symbolic
            sizes and graph inputs.
        recomputed: what the backward computes once more.
    """

    saved: tuple[Node, ...]
    recomputed: frozenset[Node]


def cut(joint: Joint, dropped: Collection[Node]) -> Cut | None:
    """The cut where the storages of ``dropped`` (:meth:`.Joint.root`) are not saved.

    What they are recomputed from is what stock saves as well, or else the narrowest that is at
    hand: a bf16 tensor before the fp32 one that it came from, a matmul's result before its
    expansion to all heads.  None where something cannot be recomputed.  Time: linear in the nodes.
    """
    roots = frozenset(dropped)
    stocks = set(joint.saved)
    weights = _weights(joint, roots, stocks)
    saved: list[Node] = []
    recomputed: set[Node] = set()
    wanted = set(joint.needed)
    for node in reversed(joint.forward):
        if node not in wanted:
            continue
        if _is_saved(joint, node, roots, stocks):
            saved.append(node)
            continue
        behind = sum(weights[x] for x in node.all_input_nodes)
        may_be_saved = node.op == "call_function" and not _is_dropped(joint, node, roots)
        if may_be_saved and 0 < behind >= _own_weight(joint, node):
            saved.append(node)
        elif weights[node] == _NEVER:
            return None
        else:
            recomputed.add(node)
            wanted.update(node.all_input_nodes)
    return Cut(tuple(reversed(saved)), frozenset(recomputed))


def _weights(joint: Joint, roots: Set[Node], stocks: Set[Node]) -> dict[Node, float]:
    """For each node of the forward the bytes that having it in the backward adds to what stock
    saves, at most: what two values are computed from counts for both.
    """
    weights: dict[Node, float] = {}
    for node in joint.forward:
        if _is_saved(joint, node, roots, stocks):
            weights[node] = 0.0 if node in stocks else _own_weight(joint, node)
            continue
        weights[node] = sum(weights[x] for x in node.all_input_nodes)
        if not _is_dropped(joint, node, roots):
            weights[node] = min(weights[node], _own_weight(joint, node))
    return weights


def _is_saved(joint: Joint, node: Node, roots: Set[Node], stocks: Set[Node]) -> bool:
    """Whether a node that the backward needs is saved, whatever else is."""
    if node.op != "call_function":
        return node in stocks or joint.is_given(node)
    if _is_dropped(joint, node, roots) or joint.is_recomputed_anyway(node):
        return False
    return node in stocks or not joint.may_recompute(node)


def _is_dropped(joint: Joint, node: Node, roots: Set[Node]) -> bool:
    return joint.root(node) in roots


def _own_weight(joint: Joint, node: Node) -> float:
    """What saving it adds, in bytes; a view is as good as what it shows."""
    if joint.is_size(node):
        return 0.0
    if joint.is_view(node) or not joint.is_tensor(node):
        return _NEVER
    return joint.nbytes(node) * (1.0 if joint.is_in_memory(node) else _NOT_WRITTEN)
