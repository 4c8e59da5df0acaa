"""What a forward keeps for its backward, in words: the rows that every view shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..core.saving import CutPoint, Kept, KeptTensors
from .explanation import ExplainedGraph, Explanation
from .headline import short_source, signed_text, size_text

__all__ = ["CurveRow", "KeptRow", "curve_points", "curve_rows", "kept_rows", "peak_sentences"]


@dataclass(frozen=True)
class KeptRow:
    """Tensors that are alike: their name, how many more, bytes of all, who keeps them, what
    recomputing them would cost or why they are not recomputed, the line of the model.
    """

    name: str
    alike: int
    bytes: str
    kept_by: str
    recomputed: str
    where: str


def kept_rows(explanation: Explanation, limit: int) -> tuple[list[KeptRow], int, int]:
    """The rows with the most bytes; then how many tensors they leave out, and those bytes."""
    found = [
        (tensors, graph)
        for graph, kept in _kept(explanation)
        for tensors in kept.tensors
        if tensors.kept or tensors.stock_kept
    ]
    found.sort(key=lambda pair: -pair[0].bytes)
    rows = [_row(tensors, graph, explanation) for tensors, graph in found[:limit]]
    left = [tensors for tensors, _ in found[limit:]]
    return rows, sum(len(one.names) for one in left), sum(one.bytes for one in left)


def _kept(explanation: Explanation) -> Iterator[tuple[ExplainedGraph, Kept]]:
    """The forwards and what the priced policy's keep."""
    for graph in explanation.graphs:
        if explanation.priced in graph.kept:
            yield graph, graph.kept[explanation.priced]


def _row(tensors: KeptTensors, graph: ExplainedGraph, explanation: Explanation) -> KeptRow:
    names = {
        policy: _by(graph, policy, tensors)
        for policy in explanation.policies
        if policy in (explanation.policies[0], explanation.priced)
    }
    by = [
        policy if len(kept) == len(tensors.names) else f"{policy} ({len(kept)})"
        for policy, kept in names.items()
        if kept
    ]
    recomputed = tensors.why if tensors.more is None else _change(tensors.more)
    if tensors.pinned:
        recomputed = f"{recomputed}; pinned by {tensors.pinned}"
    return KeptRow(
        name=tensors.names[0],
        alike=len(tensors.names) - 1,
        bytes=size_text(tensors.bytes),
        kept_by=", ".join(by) or "none",
        recomputed=recomputed,
        where=short_source(tensors.source, 1),
    )


def _by(graph: ExplainedGraph, policy: str, tensors: KeptTensors) -> tuple[str, ...]:
    """Of these tensors those that the forward keeps under a policy."""
    return tensors.kept if policy in graph.kept else tensors.stock_kept


@dataclass(frozen=True)
class CurveRow:
    """One choice of what to keep, in words: ``of_stock`` is ``x0.700``, ``more`` signed bytes."""

    who: str
    kept: str
    of_stock: str
    more: str


def curve_points(explanation: Explanation) -> list[CutPoint]:
    """The choices that every forward has, added up, by falling bytes kept; stock's first."""
    curves = [{one.who: one for one in kept.curve} for _, kept in _kept(explanation)]
    if not curves or not all(curves):
        return []
    shared = [who for who in curves[0] if all(who in curve for curve in curves)]
    points = [
        CutPoint(who, sum(c[who].saved for c in curves), sum(c[who].more for c in curves))
        for who in shared
    ]
    return sorted(points, key=lambda one: (-one.saved, one.more, one.who != "stock"))


def curve_rows(explanation: Explanation) -> list[CurveRow]:
    """:func:`curve_points` in words."""
    points = curve_points(explanation)
    most = next((one.saved for one in points if one.who == "stock"), 0)
    return [
        CurveRow(
            who=one.who,
            kept=size_text(one.saved),
            of_stock=f"x{one.saved / most:.3f}" if most else "-",
            more=_change(one.more),
        )
        for one in points
    ]


def _change(size: float) -> str:
    change = round(size)
    return "same" if not change else f"{'+' if change > 0 else ''}{signed_text(change)}"


def peak_sentences(explanation: Explanation, tensors: int = 3) -> list[str]:
    """What holds the peak of memory under the priced policy: of the graph that has the highest."""
    policy = explanation.priced
    sides = [(graph, graph.sides[policy]) for graph in explanation.graphs if policy in graph.sides]
    sides = [pair for pair in sides if pair[1].held]
    if not sides:
        return []
    graph, side = max(sides, key=lambda pair: pair[1].peak_bytes)
    place = side.alive.index(max(side.alive))
    held = ", ".join(
        f"{name} ({size_text(size)})" for name, size in list(side.held.items())[:tensors]
    )
    return [
        f"Peak memory: {size_text(side.peak_bytes)} in the {graph.kind}, at launch {place + 1} of "
        f"{len(side.alive)}; the largest there: {held}."
    ]
