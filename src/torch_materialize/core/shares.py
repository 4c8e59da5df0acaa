"""What each decision saves against another policy: shares that add up to what is saved in all.

The decisions that differ are turned from one policy's to the other's one tensor at a time along
the graph, once from the first to the last and once the other way round, and a share is the mean of
what the bytes change by.  Halfway the graph is decided by one policy up to some tensor and by the
other from there on, so no step leaves a long chain without anything stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from .dag import Dag, Kind, Moved, moved, walk

__all__ = ["saved_by", "shares"]


def saved_by(one: Dag, other: Dag, stored: tuple[frozenset[str], frozenset[str]]) -> dict[str, int]:
    """FX node -> bytes that deciding it as ``other`` does saves, against ``one``.

    ``stored`` are the nodes that each of the two writes.  Both have kernels of their own, and the
    shares are priced on those that leave less of what is saved without an explanation (fusion).
    """
    saved = one.measured - other.measured
    later = shares(other, stored[0])
    sooner = {node: -size for node, size in shares(one, stored[1]).items()}
    if abs(saved - sum(sooner.values())) < abs(saved - sum(later.values())):
        return sooner
    return later


def shares(dag: Dag, stored: frozenset[str]) -> dict[str, int]:
    """FX node -> bytes that deciding it as ``dag`` has it saves, against storing ``stored``.

    Of every node that is ours to decide and that the two decide otherwise.  The sum is what all
    of them together save with the kernels of ``dag``.
    """
    mine = dag.homes()
    written = {i for one in moved(dag, mine) for i in one.writes}
    open_ = [v for v in dag.values if v.kind is Kind.POINTWISE and v.node and not v.required]
    out = [v.index for v in open_ if v.index in written and v.node not in stored]
    into = [v.index for v in open_ if v.index not in written and v.node in stored]
    theirs = _theirs(dag, mine, out, into)
    differ = sorted((*out, *into))
    twice: dict[int, int] = {}
    for order in (differ, differ[::-1]):
        state = _State(dag, mine)
        for i in order:
            twice[i] = twice.get(i, 0) + state.turn(i, theirs.get(i))
    # The halves that are left over are given from the first to the last, so that none is lost.
    found, carried = {}, 0
    for i in differ:
        carried += twice[i]
        half, carried = divmod(carried, 2)
        found[dag.values[i].node] = half
    return found


def _theirs(
    dag: Dag, mine: Mapping[int, int], out: Iterable[int], into: Iterable[int]
) -> dict[int, int]:
    """Where what only the other policy stores would be written: where that costs least."""
    state = _State(dag, mine)
    for i in out:
        state.turn(i, None)
    homes = {}
    for i in into:
        costs = {}
        for home in state.possible_homes(i):
            costs[home] = state.turn(i, home)
            state.turn(i, None)
        if costs:
            homes[i] = min(costs, key=costs.__getitem__)  # of equals the first that was tried
            state.turn(i, homes[i])
    return homes


class _State:
    """What every kernel reads and computes while decisions are turned one by one."""

    def __init__(self, dag: Dag, homes: Mapping[int, int]) -> None:
        self._dag = dag
        self._homes = dict(homes)
        self._roots = [set(kernel.writes) for kernel in dag.kernels]
        self._now = moved(dag, homes)
        self._readers: dict[int, set[int]] = {}
        self._computers: dict[int, set[int]] = {}
        for kernel, one in enumerate(self._now):
            self._note(kernel, one)
        self._wrote = {i: self._written(i) for i in self._homes}

    def possible_homes(self, index: int) -> Iterator[int]:
        """The first kernel that computes a value, then those before that could on the side."""
        first = min(self._computers.get(index, ()), default=None)
        if first is None:
            return
        yield first
        value = self._dag.values[index]
        near = (self._computers.get(self._dag.values[i].base, set()) for i in value.inputs)
        for kernel in sorted(set().union(*near)):
            one, fits = self._now[kernel], value.numel in self._dag.kernels[kernel].numels
            at_hand = all(i in one.computes or i in one.reads for i in value.inputs)
            if kernel < first and fits and at_hand:
                yield kernel

    def turn(self, index: int, home: int | None) -> int:
        """Lets a kernel write a value, or none; returns how many more bytes are moved."""
        before = self._homes.get(index)
        if home == before:
            return 0
        touched = self._readers.get(index, set()) | self._computers.get(index, set())
        touched |= {kernel for kernel in (before, home) if kernel is not None}
        bases = {index} | self._read_by(touched)
        change = -self._bytes(touched)
        if before is not None:
            self._roots[before].discard(index)
            del self._homes[index]
        if home is not None:
            self._roots[home].add(index)
            self._homes[index] = home
        for kernel in touched:
            self._note(kernel, walk(self._dag, self._homes, kernel, sorted(self._roots[kernel])))
        change += self._bytes(touched)
        for base in bases | self._read_by(touched):
            written = self._written(base)
            change += written - self._wrote.get(base, 0)
            self._wrote[base] = written
        return change

    def _note(self, kernel: int, now: Moved) -> None:
        for known, before, after in (
            (self._readers, self._now[kernel].reads, now.reads),
            (self._computers, self._now[kernel].computes, now.computes),
        ):
            for i in before:
                known.get(self._dag.values[i].base, set()).discard(kernel)
            for i in after:
                known.setdefault(self._dag.values[i].base, set()).add(kernel)
        self._now[kernel] = Moved(now.reads, {}, now.computes)

    def _read_by(self, kernels: Iterable[int]) -> set[int]:
        return {self._dag.values[i].base for kernel in kernels for i in self._now[kernel].reads}

    def _bytes(self, kernels: Iterable[int]) -> int:
        return sum(self._now[kernel].total(self._dag) for kernel in kernels)

    def _written(self, base: int) -> int:
        value, home = self._dag.values[base], self._homes.get(base)
        leaves = home is not None and (value.required or self._readers.get(base, set()) - {home})
        return value.nbytes if leaves else 0
