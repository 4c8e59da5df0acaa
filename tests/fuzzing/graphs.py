"""Random graphs for the planner, without torch, and what must hold for a plan of each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from hypothesis import strategies as st

from torch_materialize.core.cones import Cone, cones
from torch_materialize.core.dag import Dag, Fused, Kind, Moved, Value, moved
from torch_materialize.core.limits import Limits
from torch_materialize.core.memory import peak_bytes
from torch_materialize.core.planner import Plan, plan

from .hunt import Tally

__all__ = ["Problem", "broken", "problem_fails", "problems"]

# Choices that are tried one by one for the least that any plan could move.
_BRUTE_FORCE = 600
# The solver's own gap, and what breaks its ties.
_NEARLY = 1 + 3e-4


@dataclass(frozen=True)
class Problem:
    """A dry run and what a plan of it is told."""

    dag: Dag
    limits: Limits
    banned: frozenset[tuple[int, int]] = frozenset()

    def plan(self) -> Plan:
        return plan(self.dag, self.limits, self.banned)

    @property
    def allows_stock(self) -> bool:
        """Whether what the dry run did keeps to what the plan is told."""
        homes = self.dag.homes()
        chosen = self.dag.chosen()
        return all((i, homes[i]) not in self.banned and i not in self.dag.never for i in chosen)


@dataclass
class _Builder:
    """Values in program order, and kernels in the order in which they run."""

    values: list[Value] = field(default_factory=list)
    kernels: list[tuple[int, list[int]]] = field(default_factory=list)
    clock: int = 0

    def add(
        self, kind: Kind, numel: int, itemsize: int, inputs: tuple[int, ...] = (), **more: object
    ) -> int:
        index = len(self.values)
        fields = {"base": index, "label": f"n{index}", **more}
        self.values.append(
            Value(index, f"n{index}", kind, numel * itemsize, numel, inputs, **fields)  # type: ignore[arg-type]
        )
        return index

    def change(self, index: int, **more: object) -> None:
        self.values[index] = replace(self.values[index], **more)  # type: ignore[arg-type]

    def write(self, index: int, fused: bool) -> None:
        """Lets the last kernel write a value, or a new one."""
        if not (fused and self.kernels and self.kernels[-1][0] == self.clock):
            self.clock += 1
            self.kernels.append((self.clock, []))
        self.kernels[-1][1].append(index)

    def dag(self, forced: frozenset[int], never: frozenset[int]) -> Dag:
        kernels = tuple(
            Fused(n, f"k{n}", position, tuple(writes), self._numels(writes))
            for n, (position, writes) in enumerate(self.kernels)
        )
        bare = Dag(tuple(self.values), kernels, forced, never)
        measured = [one.total(bare) for one in moved(bare, bare.homes())]
        return replace(
            bare,
            kernels=tuple(replace(k, measured=m) for k, m in zip(kernels, measured, strict=True)),
        )

    def _numels(self, writes: list[int]) -> frozenset[int]:
        inputs = (self.values[x].numel for i in writes for x in self.values[i].inputs)
        return frozenset([*(self.values[i].numel for i in writes), *inputs])


@st.composite
def problems(draw: st.DrawFn, most: int = 16) -> Problem:
    """Random dry runs: extern kernels in between, views and gathers, several sizes, new versions
    of a buffer, and everything that a plan can be told.
    """
    build = _Builder()
    for _ in range(draw(st.integers(1, 4))):
        index = build.add(Kind.SOURCE, draw(st.sampled_from([1, 10, 100, 100])), _itemsize(draw))
        build.change(index, until=draw(st.sampled_from([-1, 2, 2 * most])))
    stored: list[int] = []
    for _ in range(draw(st.integers(2, most))):
        _add_value(draw, build, stored)
    _finish(build, stored)
    optional = [i for i in stored if _is_optional(build.values[i])]
    forced = frozenset(i for i in optional if draw(st.integers(0, 7)) == 0)
    free = [v.index for v in build.values if _is_optional(v) and v.index not in forced]
    never = frozenset(i for i in free if draw(st.integers(0, 9)) == 0)
    dag = build.dag(forced, never)
    return Problem(dag, _limits(draw), _banned(draw, dag, free))


def _itemsize(draw: st.DrawFn) -> int:
    return draw(st.sampled_from([1, 2, 2, 4, 4, 8]))


def _is_optional(value: Value) -> bool:
    return value.kind is Kind.POINTWISE and not value.required


def _add_value(draw: st.DrawFn, build: _Builder, stored: list[int]) -> None:
    known = st.integers(0, len(build.values) - 1)
    kind = draw(st.sampled_from(["pointwise"] * 6 + ["pinned", "view", "gather", "extern", "new"]))
    inputs = tuple(draw(st.lists(known, min_size=1, max_size=3, unique=True)))
    numel = max(build.values[i].numel for i in inputs)
    if kind in ("view", "gather"):
        parent = build.values[inputs[0]]
        if parent.numel < 2:
            return
        nbytes = parent.nbytes // 2
        part = build.add(Kind.VIEW, parent.numel // 2, 1, (parent.index,), base=parent.base)
        build.change(part, nbytes=nbytes)
    elif kind == "extern":
        for i in inputs:
            _require(build, stored, i)
        build.clock += 1
        for i in inputs:
            base = build.values[i].base
            build.change(base, until=max(build.values[base].until, build.clock))
        build.add(Kind.SOURCE, numel, _itemsize(draw), ready=build.clock)
    elif kind == "pinned":
        smaller = draw(st.sampled_from([s for s in (1, 10, 100) if s <= numel]))
        index = build.add(Kind.PINNED, smaller, _itemsize(draw), inputs)
        build.write(index, draw(st.booleans()))
        stored.append(index)
    elif kind == "new":
        _require(build, stored, inputs[0])
        old = build.values[build.values[inputs[0]].base]
        index = build.add(Kind.PINNED, old.numel, 1, inputs, required=True)
        memory = old.index if old.memory < 0 else old.memory
        build.change(index, nbytes=old.nbytes, memory=memory)
        build.write(index, fused=False)
        stored.append(index)
    else:
        work = draw(st.sampled_from([0, numel, 40 * numel]))
        index = build.add(Kind.POINTWISE, numel, _itemsize(draw), inputs, work=work)
        is_output = draw(st.integers(0, 4)) == 0
        if is_output or draw(st.integers(0, 3)) == 0:
            build.write(index, draw(st.booleans()))
            stored.append(index)
        if is_output:
            build.change(index, required=True)


def _require(build: _Builder, stored: list[int], index: int) -> None:
    """Somebody besides fused kernels reads a value: a kernel writes it, at the latest now."""
    base = build.values[index].base
    if build.values[base].kind is Kind.SOURCE:
        return
    if base not in stored:
        build.write(base, fused=False)
        stored.append(base)
    build.change(base, required=True)


def _finish(build: _Builder, stored: list[int]) -> None:
    """What nobody uses is an output."""
    used = {i for value in build.values for i in value.inputs}
    for value in list(build.values):
        if value.index not in used and value.kind is not Kind.SOURCE:
            _require(build, stored, value.index)
            build.change(value.base, until=build.clock + 1)


def _limits(draw: st.DrawFn) -> Limits:
    return Limits(
        arguments=draw(st.sampled_from([128, 128, 3, 6])),
        body=draw(st.sampled_from([96, 96, 2, 5])),
        balance=draw(st.sampled_from([0.0, 0.0, 0.02, 1.0])),
        further=draw(st.booleans()),
    )


def _banned(draw: st.DrawFn, dag: Dag, free: list[int]) -> frozenset[tuple[int, int]]:
    if not free or draw(st.booleans()):
        return frozenset()
    pair = st.tuples(st.sampled_from(free), st.integers(0, max(len(dag.kernels) - 1, 0)))
    return frozenset(draw(st.lists(pair, max_size=4)))


# What must hold.


def broken(problem: Problem) -> list[str]:
    """What a plan of this problem does wrong, in words; nothing if all is well."""
    found = problem.plan()
    dag, homes = problem.dag, found.homes
    after = moved(dag, homes)
    return [
        *_misses(dag, homes, after),
        *_oversteps(problem, found, after),
        *_moves_too_much(problem, found),
    ]


def _misses(dag: Dag, homes: dict[int, int], after: list[Moved]) -> Iterator[str]:
    for value in dag.values:
        if dag.fixed(value.index) and homes.get(value.index) != dag.homes()[value.index]:
            yield f"value {value.index} is written by {homes.get(value.index)}, not by its kernel"
    for kernel, one in zip(dag.kernels, after, strict=True):
        for i in one.reads:
            base = dag.values[dag.values[i].base]
            if base.kind is Kind.SOURCE:
                if base.ready >= kernel.position:
                    yield f"kernel {kernel.index} reads {base.index}, which is not made yet"
            elif not homes[base.index] < kernel.index:
                yield f"kernel {kernel.index} reads {i}, written by {homes[base.index]}"
        for i in one.computes:
            value = dag.values[i]
            if value.kind is Kind.PINNED and dag.homes()[i] != kernel.index:
                yield f"kernel {kernel.index} computes {i}, which only its own kernel can"
    for i in (v.index for v in dag.values if v.required and v.kind is not Kind.SOURCE):
        if i not in after[homes[i]].writes:
            yield f"output {i} is not written"
    if peak_bytes(dag, homes) != _peak_one_by_one(dag, after):
        yield "the peak is not what is alive at once"


def _oversteps(problem: Problem, found: Plan, after: list[Moved]) -> Iterator[str]:
    dag, homes = problem.dag, found.homes
    solved = not found.unsolved
    if solved:
        for i in found.store:
            if i in dag.never:
                yield f"value {i} is stored, though it is pinned as inlined"
            if (i, homes[i]) in problem.banned:
                yield f"value {i} is stored in kernel {homes[i]}, where it is banned"
    before = moved(dag, dag.homes())
    for kernel in dag.kernels:
        had = len(before[kernel.index].reads) + len(before[kernel.index].writes)
        has = _arguments(dag, after[kernel.index])
        if has > max(problem.limits.arguments, had) and not found.unsolved:
            yield f"kernel {kernel.index} takes {has} buffers, in the dry run {had}"
        body = sum(dag.values[i].kind is Kind.POINTWISE for i in after[kernel.index].computes)
        was = len(before[kernel.index].computes)
        if body > max(problem.limits.body, was) + len(dag.values):
            yield f"kernel {kernel.index} computes {body} values"


def _arguments(dag: Dag, one: Moved) -> int:
    return len({dag.values[i].base for i in one.reads}) + len(one.writes)


def _moves_too_much(problem: Problem, found: Plan) -> Iterator[str]:
    dag, only_bytes = problem.dag, problem.limits.balance == 0
    if found.predicted != sum(one.total(dag) for one in moved(dag, found.homes)):
        yield "the plan does not move what it predicts"
    if only_bytes and found.bound > found.predicted + 1e-6:
        yield f"the bound {found.bound} is above the plan's {found.predicted}"
    if only_bytes and problem.allows_stock and found.predicted > dag.measured * _NEARLY:
        yield f"the plan moves {found.predicted}, stock {dag.measured}"
    if only_bytes and not found.unsolved:
        least = _least(problem)
        if least is not None and found.bound > least + 1e-6:
            yield f"the bound is {found.bound}, and {least} is possible"
        if least is not None and found.predicted > least * _NEARLY:
            yield f"the plan moves {found.predicted}, and {least} is possible"


def _choices(problem: Problem, reach: list[Cone]) -> dict[int, list[int | None]] | None:
    """Value -> the kernels that could write it, or none; None where there are too many ways."""
    dag = problem.dag
    if problem.limits.balance or any(cone.cut for cone in reach):
        return None
    places = {
        v.index: [None, *_places(problem, reach, v.index)]
        for v in dag.values
        if v.kind is Kind.POINTWISE and not dag.fixed(v.index)
    }
    return places if math.prod(map(len, places.values())) <= _BRUTE_FORCE else None


def _reach(problem: Problem) -> list[Cone]:
    dag, limits = problem.dag, problem.limits
    return cones(dag, moved(dag, dag.homes()), limits.body, limits.further)


def _least(problem: Problem) -> int | None:
    """Fewest bytes over all choices, one by one; None where there are too many or none."""
    dag, reach = problem.dag, _reach(problem)
    places = _choices(problem, reach)
    if places is None:
        return None
    fixed = {i: k for i, k in dag.homes().items() if dag.fixed(i)}
    least = None
    for choice in itertools.product(*places.values()):
        homes = {**fixed, **{i: k for i, k in zip(places, choice, strict=True) if k is not None}}
        after = moved(dag, homes)
        if not list(_misses(dag, homes, after)) and _fits(problem, homes, after, reach):
            total = sum(one.total(dag) for one in after)
            least = total if least is None else min(least, total)
    return least


def _places(problem: Problem, reach: list[Cone], index: int) -> list[int]:
    if index in problem.dag.never:
        return []
    numel = problem.dag.values[index].numel
    return [
        cone.kernel.index
        for cone in reach
        if index in cone.inside
        and numel in cone.kernel.numels
        and (index, cone.kernel.index) not in problem.banned
    ]


def _fits(problem: Problem, homes: dict[int, int], after: list[Moved], reach: list[Cone]) -> bool:
    """Whether Inductor could do it: what a plan stores is computed where it is written alone."""
    for k, one in enumerate(after):
        if any(homes.get(i, k) != k and not problem.dag.fixed(i) for i in one.computes):
            return False
    before = moved(problem.dag, problem.dag.homes())
    return all(
        _arguments(problem.dag, one)
        <= max(problem.limits.arguments, len(before[k].reads) + len(before[k].writes))
        and one.computes <= reach[k].inside
        for k, one in enumerate(after)
    )


def _peak_one_by_one(dag: Dag, after: list[Moved]) -> int:
    """Bytes alive at each place of the schedule, counted one place after the other."""
    spans = {v.index: s for v in dag.values if (s := _span(dag, after, v.index)) is not None}
    owners: dict[int, list[tuple[int, int]]] = {}
    for index, one in spans.items():
        memory = dag.values[index].memory
        owners.setdefault(index if memory < 0 else memory, []).append(one)
    last = max((end for _, end in spans.values()), default=0)
    return max(
        sum(
            dag.values[owner].nbytes
            for owner, inside in owners.items()
            if min(a for a, _ in inside) <= now <= max(b for _, b in inside)
        )
        for now in range(last + 1)
    )


def _span(dag: Dag, after: list[Moved], index: int) -> tuple[int, int] | None:
    value = dag.values[index]
    each = list(zip(dag.kernels, after, strict=True))
    uses = [k.position for k, m in each if any(dag.values[i].base == index for i in m.reads)]
    if value.kind is Kind.VIEW:
        return None
    if value.kind is Kind.SOURCE:
        uses += [value.until] if value.until >= 0 else []
        if value.ready >= 0:
            return value.ready, max([value.ready, *uses])
        return (0, max(uses)) if uses else None
    born = [k.position for k, m in each if index in m.writes]
    if not born:
        return None
    uses += [born[0], value.until] + ([born[0] + 1] if value.required else [])
    return born[0], max(uses)


def problem_fails(problem: Problem, tally: Tally) -> None:
    """Adds one problem to a tally of a hunt."""
    wrong = broken(problem)
    tally.seen["planned"] += 1
    tally.seen["of them compared with every choice, one by one"] += (
        _choices(problem, _reach(problem)) is not None
    )
    if wrong:
        tally.failures.append("\n".join([*wrong, repr(problem)]))
