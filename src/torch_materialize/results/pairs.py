"""Which kernels of one policy do the work of which kernels of another.

A kernel's name says nothing across policies: the scheduler and the code generator number anew.
What it writes, reads and computes does, as FX nodes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .explanation import ExplainedGraph, Side

__all__ = ["KernelPair", "kernel_pairs"]

# A tensor that more kernels than this have in common distinguishes none of them.
_RARE = 8


@dataclass(frozen=True)
class KernelPair:
    """Fused kernels that do the same work under two policies.

    Attributes:
        place: the graph's place in the explanation.
        before, after: places in the launch order of the first policy and of the other; several
            where one side does in several launches what the other fuses, empty where that side
            has no such kernel.
        changed: they do not read, write and compute the same.
        family: that of the first kernel under the first policy, if it has one: what a kernel is
            for may be seen otherwise where it computes other things, and would then be missing
            in one family and new in another.
    """

    place: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    changed: bool
    family: str


def kernel_pairs(
    graph: ExplainedGraph, place: int, first: str, policy: str
) -> tuple[KernelPair, ...]:
    """The fused kernels of two policies, each in one pair, in the other's launch order.

    First those that write one and the same tensor, then those that have most in common of what
    they read and compute, and of the rest those of one family in order.  What is left is joined
    to whoever computes the same.
    """
    matching = _Matching(_Kernels(graph, first), _Kernels(graph, policy))
    matching.by_writes()
    matching.by_common()
    matching.by_family()
    return tuple(matching.joined(place))


class _Kernels:
    """The fused kernels of one policy, by what distinguishes them."""

    def __init__(self, graph: ExplainedGraph, policy: str) -> None:
        self.side = graph.sides[policy]
        kernels = list(enumerate(self.side.graph.kernels))
        self.places = [place for place, kernel in kernels if kernel.fused]
        self.kernels = {place: kernel for place, kernel in kernels if kernel.fused}
        self.families = graph.works_for(policy)
        self.writes = {p: self._nodes(k.writes) for p, k in self.kernels.items()}
        reads = {p: self._nodes(k.reads) for p, k in self.kernels.items()}
        self.touched = {p: reads[p] | self.writes[p] for p in self.kernels}
        self.common = {p: reads[p] | frozenset(k.computes) for p, k in self.kernels.items()}

    def _nodes(self, buffers: Iterable[str]) -> frozenset[str]:
        """FX nodes alone: what a buffer without one is called is another under each policy."""
        tensors = (self.side.graph.tensors.get(name) for name in buffers)
        return frozenset(t.node or t.name for t in tensors if t and (t.node or _is_input(t.name)))

    def work(self, place: int) -> tuple[object, ...]:
        """What makes two kernels the same, whatever their buffers are called."""
        kernel = self.kernels[place]
        return (
            _sizes(self.side, kernel.reads.items()),
            _sizes(self.side, kernel.writes.items()),
            frozenset(kernel.computes),
        )


def _is_input(name: str) -> bool:
    return not name.startswith("buf")


def _sizes(side: Side, moved: Iterable[tuple[str, int]]) -> frozenset[tuple[str, int, int]]:
    tensors = side.graph.tensors
    named = (
        ("" if name in tensors and not tensors[name].node and not _is_input(name) else name, size)
        for name, size in moved
    )
    counted = Counter((side.label(name) if name else "", size) for name, size in named)
    return frozenset((name, size, count) for (name, size), count in counted.items())


class _Matching:
    def __init__(self, one: _Kernels, other: _Kernels) -> None:
        self._one, self._other = one, other
        self._to: dict[int, int] = {}
        self._from: dict[int, int] = {}

    def _match(self, a: int, b: int) -> None:
        if a not in self._to and b not in self._from:
            self._to[a], self._from[b] = b, a

    def _free(self) -> tuple[list[int], list[int]]:
        return (
            [p for p in self._one.places if p not in self._to],
            [p for p in self._other.places if p not in self._from],
        )

    def by_writes(self) -> None:
        writers = {node: place for place in self._one.places for node in self._one.writes[place]}
        for place in self._other.places:
            found = Counter(writers[n] for n in self._other.writes[place] if n in writers)
            for candidate, _ in found.most_common():
                self._match(candidate, place)

    def by_common(self) -> None:
        free, others = self._free()
        scores = sorted((-s, a, b) for a, b, s in _alike(self._one, self._other, free, others))
        for _, a, b in scores:
            self._match(a, b)

    def by_family(self) -> None:
        free, others = self._free()
        waiting: dict[object, list[int]] = defaultdict(list)
        for place in reversed(free):
            waiting[self._one.families[place], self._one.kernels[place].kind].append(place)
        for place in others:
            key = self._other.families[place], self._other.kernels[place].kind
            if waiting[key]:
                self._match(waiting[key].pop(), place)

    def joined(self, place: int) -> list[KernelPair]:
        """Every kernel in one pair; what has no match goes to whom it has most in common with.

        That is the kernel that computes what the other reads or writes, where there is one: it
        took the other's work in.
        """
        groups = {b: ([a], [b]) for a, b in self._to.items()}
        free, others = self._free()
        for a, b in self._nearest(self._one, self._other, free, list(self._from)).items():
            groups[b][0].append(a)
            free.remove(a)
        for b, a in self._nearest(self._other, self._one, others, list(self._to)).items():
            groups[self._to[a]][1].append(b)
            others.remove(b)
        pairs = [*groups.values(), *(([a], []) for a in free), *(([], [b]) for b in others)]
        pairs.sort(key=lambda pair: (pair[1] or pair[0])[0])
        return [self._pair(place, tuple(sorted(a)), tuple(sorted(b))) for a, b in pairs]

    @staticmethod
    def _nearest(
        mine: _Kernels, theirs: _Kernels, free: Sequence[int], matched: Sequence[int]
    ) -> dict[int, int]:
        best: dict[int, tuple[float, int]] = {}
        for a, b, share in _alike(mine, theirs, free, matched):
            computes = theirs.kernels[b].computes
            took_in = not mine.touched[a].isdisjoint(computes)
            best[a] = max(best.get(a, (0.0, 0)), (share + took_in, -b))
        return {a: -b for a, (share, b) in best.items() if share}

    def _pair(self, place: int, before: tuple[int, ...], after: tuple[int, ...]) -> KernelPair:
        same = list(map(self._one.work, before)) == list(map(self._other.work, after))
        families = self._one.families[before[0]] if before else self._other.families[after[0]]
        return KernelPair(place, before, after, not same, families[0])


def _alike(
    mine: _Kernels, theirs: _Kernels, ones: Sequence[int], others: Sequence[int]
) -> Iterator[tuple[int, int, float]]:
    """Kernels with tensors in common that few kernels have, and what share of all theirs."""
    having: dict[str, list[int]] = defaultdict(list)
    for place in others:
        for node in theirs.common[place]:
            having[node].append(place)
    for place in ones:
        nodes = mine.common[place]
        found = {b for n in nodes if len(having.get(n, ())) <= _RARE for b in having.get(n, ())}
        for b in sorted(found):
            both = theirs.common[b]
            yield place, b, len(nodes & both) / len(nodes | both)
