"""What is alive in memory while the kernels of a graph run.

Inputs count: those that the caller holds to the end, the rest (tensors saved for a backward)
until they are last read, as Inductor's code frees them.  What one kernel keeps inside, what an
allocator rounds up and what extern kernels take for themselves do not.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass

from .dag import Dag, Kind, moved

__all__ = [
    "Span",
    "Timeline",
    "joined",
    "memory_of",
    "peak_bytes",
    "readers_of",
    "span",
    "timeline",
]

#: First and last schedule position at which something is alive.
Span = tuple[int, int]


@dataclass(frozen=True)
class Timeline:
    """Bytes alive while the kernels of a graph run.

    Attributes:
        alive: bytes alive at each place of the schedule, from the first on.
        held: what is alive where most is: the value in whose memory it lies -> bytes, the largest
            first.
    """

    alive: tuple[int, ...]
    held: Mapping[int, int]

    @property
    def peak(self) -> int:
        """Most bytes alive at once."""
        return max(self.alive, default=0)


def peak_bytes(dag: Dag, homes: Mapping[int, int]) -> int:
    """Most bytes alive at once when exactly ``homes`` are materialized, inputs and outputs too."""
    return max((alive for _, alive in _steps(dag, _spans(dag, homes))), default=0)


def timeline(dag: Dag, homes: Mapping[int, int]) -> Timeline:
    """What is alive when exactly ``homes`` are materialized, inputs and outputs too."""
    spans = _spans(dag, homes)
    steps = list(_steps(dag, spans))
    alive: list[int] = []
    for (start, size), (end, _) in itertools.pairwise(steps):
        alive += [size] * (end - start)
    place = max(range(len(alive)), key=alive.__getitem__, default=0)
    held = {i: dag.values[i].nbytes for i, (start, end) in spans.items() if start <= place <= end}
    largest = sorted(held.items(), key=lambda item: (-item[1], item[0]))
    return Timeline(tuple(alive), dict(largest))


def _spans(dag: Dag, homes: Mapping[int, int]) -> dict[int, Span]:
    """When each memory is alive, by the value that owns it."""
    readers = readers_of(dag, homes)
    spans: dict[int, Span] = {}
    for value in dag.values:
        if value.kind is not Kind.VIEW:
            one = span(dag, value.index, homes, readers.get(value.index, frozenset()))
            owner = memory_of(dag, value.index)
            found = joined((spans.get(owner), one))
            if found is not None:
                spans[owner] = found
    return spans


def _steps(dag: Dag, spans: Mapping[int, Span]) -> Iterator[tuple[int, int]]:
    """Where the bytes alive change, and to how many; from place 0 on, the last is 0."""
    change: dict[int, int] = {0: 0}
    for owner, (start, end) in spans.items():
        size = dag.values[owner].nbytes
        change[start] = change.get(start, 0) + size
        change[end + 1] = change.get(end + 1, 0) - size
    alive = 0
    for position in sorted(change):
        alive += change[position]
        yield position, alive


def memory_of(dag: Dag, base: int) -> int:
    """The value in whose memory one lies that is no view: another one, or itself."""
    memory = dag.values[base].memory
    return base if memory < 0 else memory


def readers_of(dag: Dag, homes: Mapping[int, int]) -> dict[int, set[int]]:
    """Value -> the fused kernels that read it, or a view of it, from memory."""
    found: dict[int, set[int]] = {}
    for kernel, one in enumerate(moved(dag, homes)):
        for i in one.reads:
            found.setdefault(dag.values[i].base, set()).add(kernel)
    return found


def span(dag: Dag, base: int, homes: Mapping[int, int], readers: Set[int]) -> Span | None:
    """When a value that is no view is alive; None where it is never in memory."""
    value = dag.values[base]
    kernels = dag.kernels
    last = max((kernels[k].position for k in readers), default=-1)
    last = max(last, value.until)
    if value.kind is Kind.SOURCE:
        if value.ready >= 0:
            return value.ready, max(value.ready, last)
        return (0, last) if last >= 0 else None  # an input that nobody reads is freed at once
    home = homes.get(base)
    if home is None or not (value.required or readers - {home}):
        return None
    start = kernels[home].position
    return start, max(last, start + 1 if value.required else start)


def joined(spans: Iterable[Span | None]) -> Span | None:
    """From the first to the last position of several spans."""
    known = [one for one in spans if one is not None]
    if not known:
        return None
    return min(start for start, _ in known), max(end for _, end in known)
