"""What each decision costs both ways: one tensor flipped, everything else held fixed.

What a flip changes is what :func:`.dag.moved` and :func:`.memory.peak_bytes` say of the flipped
choice, added to what the trial lowering counted; but only the kernels that a flip touches are
looked at again, so that thousands of tensors are priced in about a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .dag import Dag, Kind, Moved, moved, walk
from .memory import Span, joined, memory_of, peak_bytes, span

__all__ = ["Price", "Prices", "flipped", "worth_writing"]


@dataclass(frozen=True)
class Price:
    """One tensor, both ways.  All figures are bytes of all fused kernels together.

    Attributes:
        home: the kernel that writes it, or the one that would write it most cheaply.
        stored: bytes moved if it is written to memory.
        inlined: bytes moved if every kernel that needs it recomputes it.
        peak_change: how much higher the peak memory is where it is stored.
    """

    home: int
    stored: int
    inlined: int
    peak_change: int


class Prices:
    """Prices on one trial lowering, whose own choice is what everything else is held to."""

    def __init__(self, dag: Dag) -> None:
        self._dag = dag
        self._homes = dag.homes()
        self._roots: list[list[int]] = [list(kernel.writes) for kernel in dag.kernels]
        self.now = moved(dag, self._homes)
        # What the trial lowering counted: of a scatter, say, the model knows less.
        self.total = dag.measured
        self._readers: dict[int, set[int]] = {}
        self._computers: dict[int, set[int]] = {}
        for kernel, one in enumerate(self.now):
            for i in one.reads:
                self._readers.setdefault(dag.values[i].base, set()).add(kernel)
            for i in one.computes:
                self._computers.setdefault(dag.values[i].base, set()).add(kernel)
        # Value -> those that lie in its memory, itself among them.
        self._within: dict[int, list[int]] = {}
        for value in dag.values:
            if value.kind is not Kind.VIEW:
                self._within.setdefault(memory_of(dag, value.index), []).append(value.index)
        self._alive = self._memory()
        self.peak = int(self._alive.max(initial=0))

    def price(self, index: int) -> Price | None:
        """The price of one value; None where it is not ours to decide, or nobody needs it."""
        value = self._dag.values[index]
        if value.kind is not Kind.POINTWISE or self._dag.fixed(index):
            return None
        if index in self._homes:
            flipped = _Flip(self, {i: k for i, k in self._homes.items() if i != index}, index)
            inlined, peak = self.total + flipped.bytes, flipped.peak
            return Price(self._homes[index], self.total, inlined, self.peak - peak)
        best: tuple[int, int, int] | None = None
        for home in self._possible_homes(index):
            flipped = _Flip(self, {**self._homes, index: home}, index)
            if best is None or flipped.bytes < best[0]:
                best = flipped.bytes, home, flipped.peak
        if best is None:
            return None
        change, home, peak = best
        return Price(home, self.total + change, self.total, peak - self.peak)

    def together(self, homes: Mapping[int, int]) -> Price:
        """The price of several values that are decided alike, all flipped at once.

        ``homes`` maps each to the kernel that writes it, or that would.
        """
        stored = all(i in self._homes for i in homes)
        if stored:
            other = {i: k for i, k in self._homes.items() if i not in homes}
        else:
            other = {**self._homes, **homes}
        before = sum(one.total(self._dag) for one in self.now)
        size = self.total + _total(self._dag, other) - before
        rise = peak_bytes(self._dag, other) - self.peak
        home = min(homes.values())
        if stored:
            return Price(home, self.total, size, -rise)
        return Price(home, size, self.total, rise)

    def _possible_homes(self, index: int) -> Iterator[int]:
        """The first kernel that computes a value, and those before that could on the side."""
        first = min(self._computers.get(index, ()), default=None)
        if first is None:
            return
        yield first
        value = self._dag.values[index]
        for kernel in sorted(set().union(*(self._computers.get(i, ()) for i in value.inputs))):
            one = self.now[kernel]
            fits = value.numel in self._dag.kernels[kernel].numels
            if (
                kernel < first
                and fits
                and all(i in one.computes or i in one.reads for i in value.inputs)
            ):
                yield kernel

    def _memory(self) -> npt.NDArray[np.int64]:
        """Bytes alive at each position of the schedule."""
        ends = (max(value.ready, value.until) for value in self._dag.values)
        last = max([*ends, *(kernel.position for kernel in self._dag.kernels)], default=0)
        change = np.zeros(last + 4, dtype=np.int64)
        for owner in self._within:
            self._add(change, owner, self._span(owner, self._homes, self._readers), 1)
        return np.cumsum(change)

    def _span(
        self, owner: int, homes: Mapping[int, int], readers: Mapping[int, set[int]]
    ) -> Span | None:
        """When the memory of a value is in use, by itself or by what lies in it."""
        nobody: set[int] = set()
        return joined(
            span(self._dag, i, homes, readers.get(i, nobody)) for i in self._within[owner]
        )

    def _add(
        self, change: npt.NDArray[np.int64], owner: int, alive: Span | None, sign: int
    ) -> None:
        if alive is not None:
            start, end = alive
            size = self._dag.values[owner].nbytes
            change[start] += sign * size
            change[end + 1] -= sign * size


class _Flip:
    """What changes when one value is decided otherwise: ``bytes``, and the new ``peak``."""

    def __init__(self, prices: Prices, homes: Mapping[int, int], index: int) -> None:
        self._prices = prices
        self._homes = homes
        touched = prices._readers.get(index, set()) | prices._computers.get(index, set())
        home = homes.get(index, prices._homes.get(index))
        touched = touched | ({home} if home is not None else set())
        dag = prices._dag
        after: dict[int, Moved] = {}
        for kernel in touched:
            roots = [i for i in prices._roots[kernel] if i != index]
            if homes.get(index) == kernel:
                roots.append(index)
            after[kernel] = walk(dag, homes, kernel, roots)
        self.bytes = 0
        bases = {index}
        for kernel, one in after.items():
            before = prices.now[kernel]
            self.bytes += one.total(dag) - _read_bytes(before, dag)
            bases |= {dag.values[i].base for i in (*one.reads, *before.reads)}
        readers: dict[int, set[int]] = {}
        for base in bases:
            old = prices._readers.get(base, set())
            readers[base] = (old - touched) | {
                k for k, one in after.items() if _reads(one, dag, base)
            }
            self.bytes += self._written(base, homes, readers[base])
            self.bytes -= self._written(base, prices._homes, old)
        change = np.zeros_like(prices._alive)
        for owner in {memory_of(dag, base) for base in bases}:
            inside = prices._within[owner]
            new = {i: readers.get(i, prices._readers.get(i, set())) for i in inside}
            prices._add(change, owner, prices._span(owner, prices._homes, prices._readers), -1)
            prices._add(change, owner, prices._span(owner, homes, new), 1)
        self.peak = int((prices._alive + np.cumsum(change)).max(initial=0))

    def _written(self, base: int, homes: Mapping[int, int], readers: set[int]) -> int:
        value = self._prices._dag.values[base]
        home = homes.get(base)
        leaves = home is not None and (value.required or bool(readers - {home}))
        return value.nbytes if leaves else 0


def _read_bytes(one: Moved, dag: Dag) -> int:
    return one.total(dag) - sum(one.writes.values())


def _reads(one: Moved, dag: Dag, base: int) -> bool:
    return any(dag.values[i].base == base for i in one.reads)


def flipped(dag: Dag, index: int, home: int) -> dict[int, int]:
    """The trial lowering's choice with one value taken out, or put into ``home``."""
    homes = dag.homes()
    if homes.pop(index, None) is None:
        homes[index] = home
    return homes


def worth_writing(dag: Dag, nodes: Set[str], most: int = 0) -> frozenset[str]:
    """Of ``nodes`` that a trial lowering wrote those that may stay written.

    What would move fewer bytes recomputed is taken out, the dearest first, until no more than
    ``most`` bytes are moved; the kernels stay.
    """
    homes, kept = dag.homes(), set(nodes)
    # What the trial lowering counted and the model knows nothing of stays.
    size, unknown = dag.measured, dag.measured - _total(dag, homes)

    def without(index: int) -> int:
        return _total(dag, {i: kernel for i, kernel in homes.items() if i != index}) + unknown

    written = [i for i in homes if dag.values[i].node in nodes]
    for index in sorted(written, key=lambda i: (without(i), i)):
        less = without(index)
        if size > most and less < size:
            size = less
            del homes[index]
            kept.discard(dag.values[index].node)
    return frozenset(kept)


def _total(dag: Dag, homes: Mapping[int, int]) -> int:
    return sum(one.total(dag) for one in moved(dag, homes))
