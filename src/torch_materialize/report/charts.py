"""The charts of the report, as SVG text that follows the page's light or dark colours.

Each is drawn here and not in the browser, so that it prints, needs no script, and carries its
figures as text for screen readers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from ..core.devices import named
from ..results.explanation import Explanation
from ..results.headline import Growth, families, headline, size_text

__all__ = ["growth_chart", "roofline_chart", "waterfall_chart"]

_WIDTH = 860
_LEFT, _RIGHT = 60, 20
# Dashes tell the lines apart where colours do not.
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


# Waterfall: from the first policy to the priced one, family by family.


@dataclass(frozen=True)
class _Bar:
    name: str
    start: float
    end: float
    style: str
    words: str


def waterfall_chart(explanation: Explanation, most: int = 9) -> str:
    """How each kernel family changes what is moved, against the certified least."""
    figures, first, last = headline(explanation), explanation.policies[0], explanation.priced
    changes = {name: row[last] - row[first] for name, row in families(explanation).items()}
    changed = sorted(changes.items(), key=lambda item: item[1])
    shown = [item for item in changed if item[1]]
    if len(shown) > most:
        kept = sorted(shown, key=lambda item: -abs(item[1]))[: most - 1]
        rest = sum(change for item in shown if item not in kept for change in [item[1]])
        shown = [item for item in shown if item in kept] + [("all others", rest)]
    bars = [_Bar(first, 0, figures.moved, "total", size_text(figures.moved))]
    level = figures.moved
    for name, change in shown:
        sign = "+" if change > 0 else "-"
        style = "more" if change > 0 else "less"
        bars.append(_Bar(name, level, level + change, style, sign + size_text(abs(change))))
        level += change
    if last != first:
        bars.append(_Bar(last, 0, figures.planned, "total", size_text(figures.planned)))
    return _bars(bars, figures.bound, f"{first} to {last}, bytes moved by kernel family")


def _bars(bars: list[_Bar], bound: float | None, label: str) -> str:
    """Bars from zero, since their lengths are what is compared; small changes are read as text."""
    row, top, left = 27, 26, 220
    bottom = top + row * len(bars)
    most = max(*(x for bar in bars for x in (bar.start, bar.end)), bound or 0, 1)
    across = (_WIDTH - left - 110) / most
    parts = [_line(left, top - 6, left, bottom, "grid"), _text(left, 14, "0", "middle", "tick")]
    for number, bar in enumerate(bars):
        y = top + number * row
        low, high = sorted((left + bar.start * across, left + bar.end * across))
        parts.append(_text(left - 10, y + 15, _clipped(bar.name), "end"))
        parts.append(
            f'<rect x="{low:.1f}" y="{y}" width="{max(high - low, 1.5):.1f}" height="19" '
            f'rx="2" class="{bar.style}"/>'
        )
        parts.append(_text(high + 6, y + 15, bar.words, "start", "value"))
        if number + 1 < len(bars):
            end = left + bar.end * across
            parts.append(_line(end, y + 19, end, y + row, "link"))
    if bound:
        place = left + bound * across
        parts.append(_line(place, 14, place, bottom, "bound"))
        parts.append(
            _text(place, 10, f"certified least {size_text(round(bound))}", "middle", "tick")
        )
    said = "; ".join(f"{bar.name} {bar.words}" for bar in bars)
    return _svg(bottom + 14, f"{label}: {said}", parts)


def _clipped(name: str, most: int = 28) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


# Roofline of the fused kernels.


@dataclass(frozen=True)
class _Dot:
    intensity: float
    seconds: float
    count: int
    family: str


def roofline_chart(explanation: Explanation) -> str:
    """Fused kernels of the priced policy at their arithmetic intensity; "" without a bandwidth.

    Nothing in it is measured: bytes and operations are counted, the bandwidth is the data
    sheet's, and the computing roof is what the plan takes it to be.
    """
    bandwidth = named(explanation.device).bandwidth
    dots = _dots(explanation, bandwidth) if bandwidth and explanation.balance else []
    if not dots:
        return ""
    height, top, bottom = 320, 22, 46
    ridge = 1 / explanation.balance
    low = min(*(d.intensity for d in dots), ridge) / 2
    high = max(*(d.intensity for d in dots), ridge) * 4
    roof = bandwidth * ridge
    floor = bandwidth * low
    wide, tall = _WIDTH - _LEFT - _RIGHT - 20, height - top - bottom

    def at(intensity: float) -> tuple[float, float]:
        speed = min(roof, bandwidth * intensity)
        right = math.log(intensity / low) / math.log(high / low)
        up = math.log(speed / floor) / math.log(2 * roof / floor)
        return _LEFT + 20 + right * wide, height - bottom - up * tall

    corner = at(ridge)
    start, end = at(low), at(high)
    parts = [
        f'<polyline points="{start[0]:.1f},{start[1]:.1f} {corner[0]:.1f},{corner[1]:.1f} '
        f'{end[0]:.1f},{end[1]:.1f}" class="roof"/>',
        _text(
            start[0] + 190,
            start[1] - 12,
            f"memory: {bandwidth / 1e12:.3g} TB/s (data sheet)",
            "start",
            "tick",
        ),
        _text(
            end[0],
            end[1] - 10,
            f"computing: {roof / 1e12:.3g} T operations/s (assumed)",
            "end",
            "tick",
        ),
        _text(_LEFT, height - 8, "operations for each byte moved →", "start", "tick"),
        _text(4, 12, "operations per second", "start", "tick"),
    ]
    for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1):
        place = at(10.0**power)[0]
        parts.append(_line(place, top, place, height - bottom, "grid"))
        parts.append(_text(place, height - bottom + 16, f"{10.0**power:g}", "middle", "tick"))
    whole = sum(dot.seconds for dot in dots)
    for dot in sorted(dots, key=lambda dot: -dot.seconds):
        x, y = at(dot.intensity)
        radius = 4 + 22 * math.sqrt(dot.seconds / whole)
        title = (
            f"{dot.count} of {dot.family}: {dot.intensity:.3g} operations a byte, "
            f"{dot.seconds / whole:.1%} of the modelled time"
        )
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" class="dot">'
            f"<title>{escape(title)}</title></circle>"
        )
        if dot.seconds / whole > 0.08:
            parts.append(
                _text(x + radius + 4, y + 14, f"{dot.count} of {dot.family}", "start", "tick")
            )
    said = "; ".join(f"{d.count} {d.family} at {d.intensity:.3g}" for d in dots[:12])
    return _svg(height, f"Roofline, operations for each byte: {said}", parts)


def _dots(explanation: Explanation, bandwidth: float) -> list[_Dot]:
    """Kernels of one family and intensity as one dot."""
    found: dict[tuple[str, float], list[float]] = {}
    for graph in explanation.graphs:
        side = graph.sides.get(explanation.priced)
        if side is None:
            continue
        for kernel, family in zip(
            side.graph.kernels, graph.families(explanation.priced), strict=True
        ):
            work = side.work.get(kernel.name, 0)
            if kernel.fused and kernel.bytes and work:
                seconds = max(kernel.bytes, explanation.balance * work) / bandwidth
                key = family, float(f"{work / kernel.bytes:.2g}")
                found.setdefault(key, []).append(seconds)
    return [_Dot(i, sum(s), len(s), family) for (family, i), s in found.items()]
