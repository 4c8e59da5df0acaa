"""What each fused kernel could compute or read: the ground that the planner's choice is on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from .dag import Dag, Fused, Kind, Moved

__all__ = ["MOST_ENTRIES", "Cone", "components", "cones", "entries"]

# A kernel may compute on the side at most so many times as many values as it may compute at all,
# and looks at no more inputs than this to find them: what is left out is far from what it writes.
_ASIDE = 4
_LOOKS = 10_000
# A value that is computed on the side may need so many more to be computed with it.
_BEHIND = 8
_OPEN = (Kind.POINTWISE, Kind.VIEW)
#: A program of more entries than this is not worth its solve, which takes seconds.
MOST_ENTRIES = 1_000_000


@dataclass
class Cone:
    """One kernel's reach.

    Attributes:
        roots: values that this kernel must compute.
        inside: values that it could compute.
        edge: values that it could read, in memory whatever is decided or in the trial lowering.
        cut: values that it would have to read: computing them would make its body too large.
        buffers: how many it takes in the trial lowering.
    """

    kernel: Fused
    roots: tuple[int, ...]
    buffers: int = 0
    inside: set[int] = field(default_factory=set)
    edge: set[int] = field(default_factory=set)
    cut: set[int] = field(default_factory=set)


def cones(dag: Dag, now: Sequence[Moved], body: int, further: bool = False) -> list[Cone]:
    """The reach of every kernel; ``body`` is the most values that one may compute.

    ``further``: what a kernel computes for others may need more than what it has at hand: what a
    few operations make of that, and what another kernel of the trial lowering wrote unasked.
    What a kernel computes ``now``, in the trial lowering, it can compute, however much that is.
    """
    homes = dag.homes()
    # Where kernels reach so far that the program would be too large, they reach less far.
    for far, most in _reaches(body):
        result = [
            _behind(dag, homes, kernel, one, far)
            for kernel, one in zip(dag.kernels, now, strict=True)
        ]
        wanted = {i for cone in result for i in cone.inside | cone.cut}
        open_to_all = {i for i in wanted if dag.values[i].kind in _OPEN and not dag.fixed(i)}
        users = {i: [u for u in dag.users[i] if u in open_to_all] for i in wanted}
        for cone in result:
            _beside(dag, homes, cone, users, most, further)
        if entries(dag, result) <= MOST_ENTRIES:
            break
    return result


def _reaches(body: int) -> Iterator[tuple[int, int]]:
    """How many values a kernel may compute, and how many on the side, from far to near."""
    yield from ((body, most) for most in (_ASIDE * body, body, body // 4, 0))
    yield from ((less, less) for less in (body // 4, body // 16))


def entries(dag: Dag, some: Sequence[Cone]) -> int:
    """About how many entries the rows of a program of these kernels have (:mod:`.program`).

    Each kernel that may read or compute a value gets each kernel that may write it.
    """
    writers: Counter[int] = Counter()
    reach: Counter[int] = Counter()
    for cone in some:
        for i in cone.inside:
            reach[i] += 1
            writers[i] += dag.values[i].numel in cone.kernel.numels and not dag.fixed(i)
        reach.update(cone.edge)
        reach.update(cone.cut)
    # Half of the writers come before a reader; all of them keep a kernel from recomputing.
    return sum(count + 3 * writers[i] * count // 2 for i, count in reach.items())


def _behind(dag: Dag, homes: dict[int, int], kernel: Fused, now: Moved, body: int) -> Cone:
    """Everything behind what the kernel writes, nearest first."""
    roots = tuple(i for i in kernel.writes if dag.fixed(i))
    cone = Cone(kernel, roots, len(now.reads) + len(now.writes))
    todo = list(kernel.writes)
    while todo:
        later: list[int] = []
        for i in todo:
            if i in cone.inside or i in cone.edge or i in cone.cut:
                continue
            value = dag.values[i]
            elsewhere = dag.fixed(i) and homes.get(i) != kernel.index
            if value.kind is Kind.POINTWISE and homes.get(i, -1) > kernel.index:
                elsewhere = False  # materialized too late for this kernel, which recomputes it
            # Of what is in memory every view is read by itself.
            if dag.values[value.base].kind is Kind.SOURCE or elsewhere:
                cone.edge.add(i)
            elif len(cone.inside) >= body and i not in now.computes:
                cone.cut.add(i)
            else:
                cone.inside.add(i)
                later.extend(value.inputs)
        todo = later
    return cone


def _beside(
    dag: Dag,
    homes: dict[int, int],
    cone: Cone,
    users: Mapping[int, Sequence[int]],
    most: int,
    further: bool,
) -> None:
    """Values that other kernels want and this one could compute on the side, the nearest first.

    The bf16 residual is such a value: the norm kernel computes the fp32 sum that it rounds,
    but only the next layer reads it, so it is behind none of the norm kernel's roots.
    Without it there is no narrow cut.

    ``users`` holds for each value those of its users that are not decided and that some kernel
    wants; ``most`` is how many values may be added.
    """
    added = looks = 0
    fresh = set(cone.inside)
    while fresh:
        # Only a value that has just come in can be the last input that one of its users lacked.
        near = {user for i in fresh for user in users.get(i, ())} - cone.inside
        looks += len(near)
        fresh = set()
        for i in sorted(near):
            value = dag.values[i]
            if value.kind is Kind.POINTWISE and value.numel not in cone.kernel.numels:
                continue
            looks += len(value.inputs)
            if added == most or looks > _LOOKS:
                return
            for one in _with_behind(dag, homes, cone, i, further):
                cone.inside.add(one)
                cone.edge.update(x for x in dag.values[one].inputs if x not in cone.inside)
                cone.cut.discard(one)
                cone.edge.discard(one)
                fresh.add(one)
                added += 1


def _with_behind(
    dag: Dag, homes: dict[int, int], cone: Cone, index: int, further: bool
) -> list[int]:
    """A value and what a kernel must compute besides to have it, in order; [] where it cannot.

    A factor that is made of a small input alone, say, is behind none of the kernel's roots.
    """
    found: dict[int, None] = {}
    todo = [index]
    while todo:
        i = todo.pop()
        found.pop(i, None)
        found[i] = None  # behind all that need it
        missing = [x for x in dag.values[i].inputs if not _at_hand(dag, homes, cone, x, further)]
        opaque = (x for x in missing if dag.fixed(x) or dag.values[x].kind not in _OPEN)
        if (missing and not further) or any(opaque) or len(found) + len(missing) > _BEHIND:
            return []
        todo += missing
    return list(reversed(found))


def _at_hand(dag: Dag, homes: dict[int, int], cone: Cone, index: int, further: bool) -> bool:
    """Whether the kernel can have a value: it computes it, or it may be in memory by then."""
    if index in cone.inside or index in cone.edge:
        return True
    base = dag.values[dag.values[index].base]
    if base.kind is Kind.SOURCE:
        return base.ready < cone.kernel.position
    if not (further or dag.fixed(base.index)):
        return False
    return homes.get(base.index, cone.kernel.index) < cone.kernel.index


def components(dag: Dag, all_cones: list[Cone]) -> list[list[Cone]]:
    """Groups of kernels that share no undecided value; each can be planned by itself."""
    parent = list(range(len(all_cones)))

    def find(k: int) -> int:
        while parent[k] != k:
            parent[k] = parent[parent[k]]
            k = parent[k]
        return k

    first: dict[int, int] = {}
    for cone in all_cones:
        for i in cone.inside | cone.cut | cone.edge:
            base = dag.values[i].base
            if dag.values[base].kind is not Kind.SOURCE:
                one = find(first.setdefault(base, cone.kernel.index))
                other = find(cone.kernel.index)
                parent[max(one, other)] = min(one, other)
    groups: dict[int, list[Cone]] = {}
    for cone in all_cones:
        groups.setdefault(find(cone.kernel.index), []).append(cone)
    return list(groups.values())
