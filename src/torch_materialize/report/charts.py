"""The chart of a notebook's cell, as SVG text: it needs no script and has its figures as text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from ..results.explanation import Explanation
from ..results.headline import Growth, size_text

__all__ = ["growth_chart"]

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
