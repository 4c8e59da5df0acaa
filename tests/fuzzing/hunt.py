"""Runs a check over many random examples, for a count or for a time, and adds up what was seen."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

__all__ = ["Tally", "hunt"]

# Examples of one seed; the next ones have the next seed.
_BATCH = 50


@dataclass
class Tally:
    """What a hunt saw: counts by name, and a text for each example that failed."""

    ran: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    upstream: list[str] = field(default_factory=list)
    seconds: float = 0.0


def hunt(
    one: Callable[[Any, Tally], None],
    strategy: SearchStrategy[Any],
    *,
    examples: int,
    seed: int,
    minutes: float = float("inf"),
) -> Tally:
    """Calls ``one(example, tally)`` for ``examples`` examples, or until ``minutes`` are over.

    Examples are drawn anew for each seed and not made smaller: a compile takes too long for
    that.  Two hunts with one seed see the same examples in the same order.
    """
    tally = Tally()
    started = time.monotonic()

    def batch(number: int) -> None:
        @hypothesis.seed(seed + number)
        @settings(
            max_examples=min(_BATCH, examples - tally.ran),
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        @given(strategy)
        def each(example: Any) -> None:
            if tally.ran < examples and time.monotonic() - started < 60 * minutes:
                tally.ran += 1
                one(example, tally)

        each()

    number = 0
    while tally.ran < examples and time.monotonic() - started < 60 * minutes:
        batch(number)
        number += 1
    tally.seconds = time.monotonic() - started
    return tally
