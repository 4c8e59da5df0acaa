"""How long fused kernels take on a device: launches, bytes by kernel kind, and operations.

Its rates are fitted to timings (:mod:`.fits` holds those that were measured;
``benchmarks/fit.py`` makes them).  What is read again while a cache may still hold it has a rate of
its own.  A GPU computes while it waits for memory, so that a kernel takes the longer of the two
(the roofline of Williams, Waterman and Patterson, 2009); on a CPU, where only the time of all
kernels together is measured, they add up.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from .dag import Dag, Fused, Kind, Moved, moved

__all__ = [
    "KINDS",
    "Load",
    "Rates",
    "Weights",
    "computing",
    "each_load",
    "kind",
    "seconds",
    "seconds_of",
    "together",
]

# How sharply the longer of two times hides the shorter: the power of a smooth maximum.
_SHARP = 8

#: Kinds of fused kernel.
KINDS = ("pointwise", "persistent", "looped")


@dataclass(frozen=True)
class Load:
    """What the kernels of one kind do: launches, bytes and operations.

    ``reread`` are bytes that were read or written so shortly before that a cache holds them,
    ``again`` those that a kernel reads in each of its loops but the first (:attr:`.Fused.passes`).
    """

    launches: float = 0.0
    read: float = 0.0
    reread: float = 0.0
    write: float = 0.0
    operations: float = 0.0
    again: float = 0.0

    def __add__(self, other: Load) -> Load:
        return Load(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class Rates:
    """Seconds that one of each takes, by kind of kernel.

    Attributes:
        cache: bytes that the device's last cache holds.
        call: seconds of one call beside its fused kernels: guards, the wrapper, extern kernels.
        source: the files of results that the rates were fitted to.
        error: median distance of a predicted from a measured time, where both are shares of
            stock's.
        overlap: whether a kernel moves bytes while it computes.
    """

    by_kind: Mapping[str, Load]
    cache: int
    call: float = 0.0
    source: tuple[str, ...] = ()
    error: float = 0.0
    overlap: bool = False

    @property
    def balance(self) -> float:
        """Bytes that pointwise kernels move in the time of one of their operations."""
        return self.weights("pointwise").operation

    @property
    def byte(self) -> float:
        """Seconds in which pointwise kernels move one byte."""
        usual = self.by_kind["pointwise"]
        return ((usual.read + usual.reread) / 2 + usual.write) / 2

    def weights(self, name: str) -> Weights:
        """What a kernel of a kind (:data:`KINDS`) does, against bytes of pointwise kernels."""
        one, byte = self.by_kind[name], self.byte
        if not byte:
            return Weights()
        # Whether a cache will hold what is read is not known before there is a trial lowering.
        read = (one.read + one.reread) / 2
        return Weights(read / byte, one.write / byte, one.operations / byte, one.again / byte)


@dataclass(frozen=True)
class Weights:
    """What a byte read, a byte written, an operation and a byte read by one more loop of the same
    kernel cost, in bytes of some usual kernel.
    """

    read: float = 1.0
    write: float = 1.0
    operation: float = 0.0
    again: float = 0.0


def kind(kernel: Fused) -> str:
    """One of :data:`KINDS`."""
    if kernel.reduced <= 1:
        return "pointwise"
    return "persistent" if kernel.reduced <= kernel.held else "looped"


def each_load(dag: Dag, cache: int) -> Iterator[tuple[str, Load]]:
    """Kind and load of every kernel of a trial lowering, in order; ``cache`` in bytes."""
    recent = _Recent(dag, cache)
    for kernel, one in zip(dag.kernels, moved(dag, dag.homes()), strict=True):
        recent.until(kernel.position)
        reread, reads = recent.reads(one), sum(one.reads.values())
        # What the model of a kernel misses of its bytes (a gather's backward) is read.
        fresh = max(reads + kernel.measured - one.total(dag) - reread, 0)
        again = (kernel.passes - 1) * reads
        written = sum(one.writes.values())
        yield kind(kernel), Load(1.0, fresh, reread, written, kernel.work, again)


def seconds(each: Iterable[tuple[str, Load]], rates: Rates) -> float:
    """The time that one call should take, without extern kernels.

    ``each`` is the kind and load of every kernel; without :attr:`Rates.overlap`, of several at a
    time as well.
    """
    return rates.call + sum(_seconds(load, rates.by_kind[name], rates) for name, load in each)


def _seconds(load: Load, each: Load, rates: Rates) -> float:
    moving = (
        load.read * each.read
        + load.reread * each.reread
        + load.write * each.write
        + load.again * each.again
    )
    both: float = together(moving, load.operations * each.operations, rates.overlap)
    return load.launches * each.launches + both


def together(moving: Any, computing: Any, overlap: bool) -> Any:
    """Time of a kernel that takes ``moving`` for its bytes and ``computing`` for its operations.

    Numbers, or arrays of them.
    """
    if not overlap:
        return moving + computing
    return (moving**_SHARP + computing**_SHARP) ** (1 / _SHARP)


def seconds_of(dag: Dag, rates: Rates) -> float:
    """The time that the kernels of a trial lowering should take in one call."""
    return seconds(each_load(dag, rates.cache), rates)


def computing(dag: Dag, rates: Rates) -> list[tuple[float, Moved]]:
    """Kernels that should compute for longer than they move bytes, the worst first.

    With the seconds that each would save if it computed nothing.
    """
    each = zip(each_load(dag, rates.cache), moved(dag, dag.homes()), strict=True)
    found = []
    for (name, load), one in each:
        rate = rates.by_kind[name]
        less = _seconds(replace(load, operations=0.0), rate, rates)
        if load.operations * rate.operations > less:
            found.append((_seconds(load, rate, rates) - less, one))
    return sorted(found, key=lambda pair: -pair[0])  # of equals the first stays the first


class _Recent:
    """Which buffers a cache of some bytes would still hold, if it dropped the oldest first."""

    def __init__(self, dag: Dag, size: int) -> None:
        self._dag = dag
        self._room = size
        self._filled = 0
        self._held: OrderedDict[int, int] = OrderedDict()
        self._extern = list(self._results())

    def _results(self) -> Iterator[tuple[int, int, int]]:
        """Results of extern kernels, the first of them last: (position, value, bytes)."""
        found = [
            (v.ready, v.index, v.nbytes)
            for v in self._dag.values
            if v.kind is Kind.SOURCE and v.ready >= 0 and v.base == v.index
        ]
        return iter(sorted(found, reverse=True))

    def until(self, position: int) -> None:
        """Lets the extern kernels before ``position`` write their results."""
        while self._extern and self._extern[-1][0] < position:
            _, index, nbytes = self._extern.pop()
            self._touch(index, nbytes)

    def reads(self, one: Moved) -> int:
        """Bytes that a kernel reads and finds in the cache; then it has touched all of its own."""
        found = 0
        for i, nbytes in one.reads.items():
            base = self._dag.values[i].base
            found += nbytes if base in self._held else 0
        for i, nbytes in (*one.reads.items(), *one.writes.items()):
            self._touch(self._dag.values[i].base, nbytes)
        return found

    def _touch(self, index: int, nbytes: int) -> None:
        self._filled += nbytes - self._held.pop(index, 0)
        self._held[index] = nbytes
        while self._filled > self._room:
            self._filled -= self._held.popitem(last=False)[1]
