"""What a forward keeps for its backward, for people to read: tensors, and other choices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch.fx import Node

from ...core.policy import parse
from ...core.saving import CutPoint, Kept, KeptTensors
from ..fx.post_grad import PostGrad
from ..read.pin_nodes import INLINE, KEEP, is_pin, source_line
from .cut import Cut, cut
from .foresee import Foresight
from .joint import Joint
from .lots import Group, described, groups
from .search import within
from .upstreams import Stock

__all__ = ["KEPT_KEY", "kept_by", "kept_of"]

#: In the meta of a forward's module that was cut for a planned device: its :class:`.Kept`.
KEPT_KEY = "torch_materialize_kept"

# Shares of what stock saves that the curve has a point for, where they can be had.
_SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
_UPSTREAMS_BUDGETS = (0.85, 0.7, 0.5)
# What it is computed from would be kept in its place.
_FREES_NOTHING = "frees nothing"


def kept_by(graphs: Mapping[str, PostGrad]) -> dict[str, Kept]:
    """Of a forward that several policies were traced for: policy that plans -> what it keeps."""
    return {
        policy: graph.module.meta[KEPT_KEY]
        for policy, graph in graphs.items()
        if parse(policy).plans and KEPT_KEY in graph.module.meta
    }


def kept_of(joint: Joint, saved: Sequence[Node], stock: Stock | None) -> Kept:
    """What a forward keeps that saves ``saved``, beside stock's.

    ``stock`` adds the curve of other choices, which takes some dozen cuts of the graph; None
    leaves it out.
    """
    base = cut(joint, ())
    foresight = Foresight(joint, base) if base else None
    found = groups(joint, foresight) if foresight else []
    kept = Kept(
        joint.saved_bytes(saved),
        joint.saved_bytes(joint.saved),
        tuple(sorted(_tensors(joint, saved, found), key=lambda one: -one.bytes)),
    )
    if foresight is None or stock is None or not kept.stock_saved:
        return kept
    points = [CutPoint("plan", kept.saved, foresight.more(_cut_of(joint, saved)))]
    points += [*_ours(joint, foresight, found), *_upstreams(joint, foresight, stock)]
    curve = [CutPoint("stock", kept.stock_saved, 0.0), *sorted(points, key=lambda x: -x.saved)]
    return Kept(kept.saved, kept.stock_saved, kept.tensors, tuple(curve))


def _tensors(joint: Joint, saved: Sequence[Node], found: Sequence[Group]) -> Iterator[KeptTensors]:
    prices = {root: group.lot.price for group in found for root in group.roots}
    stocks, ours = ({joint.owner(node) for node in nodes} for nodes in (joint.saved, saved))
    alike: dict[object, list[Node]] = {}
    for node in joint.forward:
        if node in stocks | ours and node.op != "placeholder" and joint.nbytes(node):
            alike.setdefault((described(node), joint.nbytes(node)), []).append(node)
    for nodes in alike.values():
        first = nodes[0]
        known = [prices[root] for root in map(joint.root, nodes) if root in prices]
        yield KeptTensors(
            names=tuple(node.name for node in nodes),
            kept=tuple(node.name for node in nodes if node in ours),
            stock_kept=tuple(node.name for node in nodes if node in stocks),
            bytes=sum(map(joint.nbytes, nodes)),
            more=sum(known) if len(known) == len(nodes) else None,
            why="" if len(known) == len(nodes) else joint.why_saved(first) or _FREES_NOTHING,
            source=source_line(first),
            pinned=next((word for kind, word in _PINS if is_pin(joint.root(first), kind)), ""),
        )


_PINS = ((KEEP, "keep"), (INLINE, "inline"))


def _cut_of(joint: Joint, saved: Sequence[Node]) -> Cut:
    return Cut(tuple(saved), frozenset(joint.recomputed_beside(saved)))


def _ours(joint: Joint, foresight: Foresight, found: Sequence[Group]) -> Iterator[CutPoint]:
    stock_bytes = joint.saved_bytes(joint.saved)
    for share in _SHARES:
        one = within(joint, foresight, found, stock_bytes, stock_bytes * share)
        if one is None:
            return
        taken, _ = one
        saved = joint.saved_bytes(taken.saved)
        yield CutPoint(f"plan at {share:g}", saved, foresight.more(taken))


def _upstreams(joint: Joint, foresight: Foresight, stock: Stock) -> Iterator[CutPoint]:
    for budget in _UPSTREAMS_BUDGETS:
        nodes = stock.saved_within(budget)
        more = foresight.more(_cut_of(joint, nodes))
        yield CutPoint(f"upstream at {budget:g}", joint.saved_bytes(nodes), more)
