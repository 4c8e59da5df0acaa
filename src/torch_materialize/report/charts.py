"""Charts as SVG text: they need no script and have their figures as text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from ..core.saving import CutPoint
from ..results.explanation import Explanation
from ..results.headline import Growth, signed_text, size_text

__all__ = ["alive_chart", "curve_chart", "growth_chart"]

_WIDTH = 860
_LEFT, _RIGHT = 60, 20
# Dashes distinguish the lines where colours do not.
_DASHES = ("6 3", "2 3", "", "9 3 2 3", "1 2")


def _svg(height: int, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(label)}">'
        + "".join(parts)
        + "</svg>"
    )


def _text(x: float, y: float, words: str, anchor: str = "start", style: str = "") -> str:
    kind = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{style}"/>'


def _ticks(most: float, wanted: int = 5) -> list[float]:
    """Round figures from 0 to at least ``most``."""
    raw = max(most, 1e-9) / wanted
    power = 10 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= raw)
    return [i * step for i in range(math.ceil(most / step) + 1)]


# Read growth: the picture that explains the project.


def growth_chart(explanation: Explanation, row: Growth) -> str:
    """What each kernel of one family reads, kernel by kernel, under each policy."""
    height, top, bottom = 300, 16, 44
    longest = max(len(reads) for reads in row.reads.values())
    ticks = _ticks(max(max(reads) for reads in row.reads.values()) / row.unit)
    across = (_WIDTH - _LEFT - _RIGHT - 70) / max(longest - 1, 1)
    up = (height - top - bottom) / ticks[-1]

    def at(place: int, amount: float) -> tuple[float, float]:
        return _LEFT + place * across, height - bottom - amount * up

    parts = [_line(_LEFT, at(0, t)[1], _WIDTH - _RIGHT - 70, at(0, t)[1], "grid") for t in ticks]
    parts += [_text(_LEFT - 8, at(0, t)[1] + 4, f"{t:g}", "end", "tick") for t in ticks]
    unit = "activations" if explanation.unit_bytes else f"units of {size_text(row.unit)}"
    parts.append(
        _text(_LEFT, height - 8, f"{row.family} kernels, first to last →", "start", "tick")
    )
    parts.append(_text(_LEFT, 10, f"read by each, in {unit}", "start", "tick"))
    for number, (policy, reads) in enumerate(row.reads.items()):
        points = [at(place, size / row.unit) for place, size in enumerate(reads)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        colour = explanation.policies.index(policy)
        dash = _DASHES[number % len(_DASHES)] if number < len(row.reads) - 1 else ""
        parts.append(
            f'<polyline points="{path}" class="series s{colour}" stroke-dasharray="{dash}"/>'
        )
        if longest <= 120:
            parts += [
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2" class="d{colour}"/>' for x, y in points
            ]
    parts += _line_names(explanation, row, at)
    said = "; ".join(
        f"{policy}: {', '.join(f'{size / row.unit:.3g}' for size in reads[:24])}"
        for policy, reads in row.reads.items()
    )
    return _svg(height, f"{row.family} kernels in order, read in {unit}. {said}", parts)


def _line_names(explanation: Explanation, row: Growth, at: object) -> Iterator[str]:
    """Each line's name at its right end, moved apart where lines end together."""
    assert callable(at)
    ends = sorted(
        (at(len(reads) - 1, reads[-1] / row.unit)[1], policy) for policy, reads in row.reads.items()
    )
    last = -math.inf
    for y, policy in ends:
        last = max(y, last + 15)
        colour = explanation.policies.index(policy)
        yield _text(_WIDTH - _RIGHT - 62, last + 4, policy, "start", f"name n{colour}")


# Memory against bytes, of a training step.


def curve_chart(points: Sequence[CutPoint]) -> str:
    """Bytes kept by each choice, across, and bytes moved more than with stock's, upwards."""
    height, top, bottom = 260, 18, 40
    most, least = max(one.saved for one in points), min(one.more for one in points)
    up = _ticks(max(1.0, *(one.more for one in points)), 4)
    down = [-x for x in _ticks(-least, 2)[1:]] if least < 0 else []
    along = _ticks(most, 6)
    low, high = min([0.0, *down]), up[-1]

    def at(saved: float, more: float) -> tuple[float, float]:
        x = _LEFT + saved / along[-1] * (_WIDTH - _LEFT - _RIGHT - 40)
        return x, top + (high - more) / (high - low) * (height - top - bottom)

    parts: list[str] = []
    for tick in [*down, *up]:
        y = at(0, tick)[1]
        parts.append(_line(_LEFT, y, _WIDTH - _RIGHT - 40, y, "grid"))
        sign = "+" if tick > 0 else ""
        parts.append(_text(_LEFT - 8, y + 4, f"{sign}{signed_text(round(tick))}", "end", "tick"))
    for tick in along:
        x = at(tick, 0)[0]
        parts.append(_text(x, height - bottom + 16, size_text(round(tick)), "middle", "tick"))
    parts.append(_text(_LEFT, height - 6, "kept by the forward →", "start", "tick"))
    ours = [one for one in points if one.who == "stock" or one.who.startswith("plan")]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(one.saved, one.more) for one in ours))
    parts.append(f'<polyline points="{path}" class="series side1"/>')
    parts.append(_text(_LEFT, 10, "moved more a step than with stock's choice ↑", "start", "tick"))
    labelled: list[tuple[float, float]] = []
    for one in points:
        x, y = at(one.saved, one.more)
        if all(abs(x - a) > 60 or abs(y - b) > 14 for a, b in labelled):
            parts.append(_text(x + 7, y - 6, one.who, "start", "tick"))
            labelled.append((x, y))
        side = "side1" if one.who.startswith("plan") else "side0"
        words = f"{one.who}: {size_text(one.saved)} kept, {round(one.more / 1e6, 1):+g} MB moved"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" class="dot {side}">'
            f"<title>{escape(words)}</title></circle>"
        )
    said = "; ".join(f"{one.who}: {size_text(one.saved)}, {one.more:+.3g} B" for one in points)
    return _svg(height, f"Bytes kept, and bytes moved more than with stock's choice. {said}", parts)


# Memory along the launches.


def alive_chart(explanation: Explanation) -> str:
    """Bytes alive at each launch, graph after graph, under the first policy and the priced one.

    "" for a record that does not know them.
    """
    policies = dict.fromkeys((explanation.policies[0], explanation.priced))
    rows = {
        policy: [g.sides[policy].alive for g in explanation.graphs if policy in g.sides]
        for policy in policies
    }
    if not all(all(row) and row for row in rows.values()):
        return ""
    height, top, bottom = 240, 18, 40
    ticks = _ticks(max(max(alive) for row in rows.values() for alive in row), 4)
    # A graph is as wide as its longest side: the same launch stands at about the same place.
    widths = [max(map(len, sides)) for sides in zip(*rows.values(), strict=True)]
    across = (_WIDTH - _LEFT - _RIGHT) / sum(widths)

    def at(launch: float, size: float) -> tuple[float, float]:
        return _LEFT + launch * across, height - bottom - size / ticks[-1] * (height - top - bottom)

    parts = [_line(_LEFT, at(0, t)[1], _WIDTH - _RIGHT, at(0, t)[1], "grid") for t in ticks]
    parts += [_text(_LEFT - 8, at(0, t)[1] + 4, size_text(round(t)), "end", "tick") for t in ticks]
    parts.append(_text(_LEFT, 10, "alive ↑", "start", "tick"))
    start = 0
    for place, width in enumerate(widths):
        name = explanation.graphs[place].kind
        x, y = at(start, 0)
        parts += [
            _line(x, top, x, y, "grid"),
            _text(x + 3, height - bottom + 16, name, style="tick"),
        ]
        for side, row in enumerate(rows.values()):
            scale = width / len(row[place])
            points = " ".join(
                "{:.1f},{:.1f}".format(*at(start + (n + 0.5) * scale, size))
                for n, size in enumerate(row[place])
            )
            parts.append(f'<polyline points="{points}" class="series side{side}"/>')
        start += width
    parts.append(_text(_LEFT, height - 6, "launches, first to last →", "start", "tick"))
    said = "; ".join(
        f"{policy}: at most {size_text(explanation.peak_bytes(policy))}" for policy in policies
    )
    return _svg(height, f"Bytes alive at each launch. {said}", parts)
