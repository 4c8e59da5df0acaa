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

# Kernels, and a choice of what they materialize.
_Side = tuple[Dag, Mapping[int, int]]


def saved_by(one: Dag, other: Dag, stored: tuple[frozenset[str], frozenset[str]]) -> dict[str, int]:
    """FX node -> bytes that deciding it as ``other`` does saves, against ``one``.

    ``stored`` are the nodes that each of the two writes.  Both have kernels of their own, and the
    shares are priced on those that leave less of what is saved without an explanation.  What is
    left over comes from kernels that are fused otherwise: what that saves of a buffer goes to the
    decisions on whatever else the kernels that read or write it move, in equal parts.
    """
    saved = one.measured - other.measured
    later = shares(other, stored[0])
    sooner = {node: -size for node, size in shares(one, stored[1]).items()}
    if abs(saved - sum(sooner.values())) < abs(saved - sum(later.values())):
        found = sooner
        sides = (one, _turned(one, stored[1])), (other, other.homes())
    else:
        found = later
        sides = (one, one.homes()), (other, _turned(other, stored[0]))
    near = _near((*sides, (one, one.homes()), (other, other.homes())), frozenset(found))
    fused = _fused_otherwise(sides, near)
    rest = saved - sum(found.values())
    if abs(rest - sum(fused.values())) < abs(rest):
        found = {node: size + fused.get(node, 0) for node, size in found.items()}
    return found


def shares(dag: Dag, stored: frozenset[str]) -> dict[str, int]:
    """FX node -> bytes that deciding it as ``dag`` has it saves, against storing ``stored``.

    Of every node that is ours to decide and that the two decide otherwise.  The sum is what all
    of them together save with the kernels of ``dag``.
    """
    mine, theirs = dag.homes(), _turned(dag, stored)
    differ = _differ(dag, stored)
    twice: dict[int, int] = {}
    for order in (differ, differ[::-1]):
        state = _State(dag, mine)
        for i in order:
            twice[i] = twice.get(i, 0) + state.turn(i, theirs.get(i))
    # The halves that are left over are given from the first to the last, so that none is lost.
    found, carried = {}, 0
    for i in differ:
        half, carried = divmod(carried + twice[i], 2)
        found[dag.values[i].node] = half
    return found


def _differ(dag: Dag, stored: frozenset[str]) -> list[int]:
    """Values that are ours to decide, and written by ``dag`` or in ``stored``, but not both."""
    written = {i for one in moved(dag, dag.homes()) for i in one.writes}
    ours = (v for v in dag.values if v.kind is Kind.POINTWISE and v.node and not v.required)
    return [v.index for v in ours if (v.index in written) != (v.node in stored)]


def _turned(dag: Dag, stored: frozenset[str]) -> dict[int, int]:
    """The choice of ``dag`` with all that differs from ``stored`` turned.

    What it does not write is written where that costs least.
    """
    homes, differ = dag.homes(), _differ(dag, stored)
    state = _State(dag, homes)
    into = [i for i in differ if dag.values[i].node in stored]
    for i in set(differ).difference(into):
        state.turn(i, None)
        homes.pop(i, None)
    for i in into:
        state.turn(i, None)
        homes.pop(i, None)
        costs = {}
        for home in state.possible_homes(i):
            costs[home] = state.turn(i, home)
            state.turn(i, None)
        if costs:
            homes[i] = min(costs, key=costs.__getitem__)  # of equals the first that was tried
            state.turn(i, homes[i])
    return homes


def _near(sides: Iterable[_Side], decided: frozenset[str]) -> dict[str, list[str]]:
    """Buffer -> the decided nodes that some kernel moves with it; of a decided node itself."""
    found: dict[str, set[str]] = {}
    for dag, homes in sides:
        for one in moved(dag, homes):
            labels = _by_label(dag, one).keys()
            for label in labels:
                found.setdefault(label, set()).update(decided & labels)
    return {label: [label] if label in decided else sorted(near) for label, near in found.items()}


def _fused_otherwise(sides: tuple[_Side, _Side], near: Mapping[str, list[str]]) -> dict[str, int]:
    """What the kernels of the second side save against the first with the same choice."""
    change: dict[str, int] = {}
    for sign, (dag, homes) in zip((1, -1), sides, strict=True):
        for one in moved(dag, homes):
            for label, size in _by_label(dag, one).items():
                change[label] = change.get(label, 0) + sign * size
    found: dict[str, int] = {}
    for label, size in change.items():
        nodes = near[label]
        for place, node in enumerate(nodes):
            # Equal parts that add up to all of it.
            part = size * (place + 1) // len(nodes) - size * place // len(nodes)
            found[node] = found.get(node, 0) + part
    return found


def _by_label(dag: Dag, one: Moved) -> dict[str, int]:
    """Buffer -> bytes that one kernel moves of it."""
    sizes: dict[str, int] = {}
    for i, size in (*one.read_of(dag).items(), *one.writes.items()):
        label = dag.values[i].label
        sizes[label] = sizes.get(label, 0) + size
    return sizes


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
