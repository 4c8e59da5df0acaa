"""What interleaved timings say: paired ratios, and what of them is noise.

A machine drifts while it is timed, so no two averages are compared: each round runs everything
once, and what counts is the ratio within a round.  Nothing is assumed about how times are
distributed; the interval of a median is that between two order statistics (David and Nagaraja,
Order Statistics, 2003, 7.1).
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Interval", "faster", "interleaved", "median_interval", "noise", "ratios"]

# How sure an interval is to hold the true median.
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A median, and between what it lies."""

    low: float
    median: float
    high: float


def median_interval(samples: Sequence[float], confidence: float = _CONFIDENCE) -> Interval:
    """The median of ``samples`` with its interval; of fewer than six the whole range.

    Raises:
        ValueError: there is no sample.
    """
    if not samples:
        raise ValueError("a median needs at least one sample; found none")
    ordered = sorted(samples)
    count = len(ordered)
    # P(fewer than k of n fair coins) on either side is what the interval leaves out.
    left_out, rank = 0.5**count, 0
    while left_out + math.comb(count, rank + 1) * 0.5**count <= (1 - confidence) / 2:
        rank += 1
        left_out += math.comb(count, rank) * 0.5**count
    rank = min(rank, (count - 1) // 2)
    return Interval(ordered[rank], statistics.median(ordered), ordered[-1 - rank])


def ratios(times: Sequence[float], base: Sequence[float]) -> list[float]:
    """Round by round, how much longer than ``base`` something took."""
    return [one / other for one, other in zip(times, base, strict=True)]


def noise(times: Sequence[float], again: Sequence[float]) -> float:
    """How far apart, as a share, two timings of one and the same thing may seem to be."""
    interval = median_interval(ratios(again, times))
    return max(interval.high - 1, 1 - interval.low, 0.0)


def faster(times: Mapping[str, Sequence[float]], base: str, again: str) -> str:
    """The name of what was fastest, ``base`` where nothing beats it by more than the noise.

    ``base`` and ``again`` are the same thing timed twice in each round.  Of what cannot
    be distinguished the one that comes first in ``times`` is taken.
    """
    floor = noise(times[base], times[again])
    best = base
    for name, own in times.items():
        if name in (base, again):
            continue
        # Against both timings of the base, and what is best so far: each must lose clearly.
        rivals = (base, again) if best == base else (base, again, best)
        if all(median_interval(ratios(own, times[r])).high < 1 - floor for r in rivals):
            best = name
    return best


def interleaved(
    runs: Mapping[str, Callable[[], float]], rounds: int, enough: Callable[[int], bool]
) -> Iterator[dict[str, float]]:
    """One dict for each round: what every run took, in seconds, in an order that changes.

    ``enough`` is called after each round with the rounds so far, and says whether to stop before
    ``rounds``.
    """
    names = list(runs)
    draw = random.Random(0)  # the same in every process
    left: list[list[int]] = []
    for done in range(rounds):
        if not left:
            left = _orders(len(names))
            draw.shuffle(left)
        took = {names[one]: runs[names[one]]() for one in left.pop()}
        yield {name: took[name] for name in names}
        if enough(done + 1):
            return


def _orders(count: int) -> list[list[int]]:
    """Orders in which each stands in each place, and behind each other, equally often.

    What ran before leaves the caches as it does, so nobody may have a neighbour of his own
    (Williams, Experimental designs balanced for the estimation of residual effects, 1949).
    """
    first = [(place + 1) // 2 * (-1) ** (place + 1) % count for place in range(count)]
    square = [[(one + shift) % count for one in first] for shift in range(count)]
    # Of an odd number one square cannot be balanced, but is together with its mirror image.
    return square + [order[::-1] for order in square] if count % 2 else square
