"""What loads through indices touch of each buffer: columns of the rows that an index selects."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["Columns", "Key", "Touched"]

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Columns:
    """Addresses beside an index, in elements: an arithmetic progression's, or as many.

    ``step`` is 0 where no more is known than their number.
    """

    first: int
    last: int
    step: int
    count: int
    key: Key


class Touched:
    """What the loads that were noted can touch."""

    def __init__(self) -> None:
        self._numbers: dict[Key, int] = {}
        self._columns: dict[str, dict[Key, set[Columns]]] = {}  # by buffer and index
        self._rows: dict[tuple[str, Key], int] = {}

    def names(self) -> set[str]:
        """The buffers that are read so, as the loops call them."""
        return set(self._columns)

    def elements(self, name: str) -> int:
        """Distinct elements of a buffer that these loads can touch, at most."""
        return sum(
            self._rows[name, index] * _union(columns)
            for index, columns in self._columns.get(name, {}).items()
        )

    def number(self, *key: Any) -> int:
        """The same number for equal keys."""
        return self._numbers.setdefault(key, len(self._numbers))

    def note(self, name: str, index: Key, rows: int, columns: Columns) -> None:
        """Notes that a load touches some columns of the rows that an index selects."""
        key = name, index
        self._columns.setdefault(name, {}).setdefault(index, set()).add(columns)
        self._rows[key] = min(rows, self._rows.get(key, rows))


def _union(columns: Iterable[Columns]) -> int:
    """Of several sets the distinct addresses, at most: their sum, or all that lie between."""
    all_of = [one for one in columns if one.count]
    total = sum(one.count for one in all_of)
    if not all(one.step for one in all_of) or not all_of:
        return total
    first = min(one.first for one in all_of)
    step = math.gcd(*(one.step for one in all_of), *(one.first - first for one in all_of))
    return min(total, (max(one.last for one in all_of) - first) // max(step, 1) + 1)
