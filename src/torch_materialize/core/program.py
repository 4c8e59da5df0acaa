"""The integer program behind a plan: which values become buffers, and where.

Columns, all 0 or 1: kernel ``k`` computes value ``i``; ``k`` reads ``i`` from memory; ``k`` writes
``i``.  The cost is bytes read and written, and what computing takes away from them; where a
device's rates were measured, the time of all three.  Rows say what a fused kernel can do: an input
is computed or read; a read needs a write in an earlier kernel; one kernel writes a value, and it
computes it; no kernel recomputes what is in memory, since Inductor's loaders read a buffer where
there is one.  Held fixed: the kernels of one trial lowering, their order, what they must produce,
and which values each could compute at all (:mod:`.cones`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_matrix

from .cones import MOST_ENTRIES, Cone, entries
from .dag import Dag, Kind, Value
from .deadline import FOREVER, Deadline
from .limits import Limits

__all__ = ["Program", "Solution", "Solved"]

#: A program -> its solution; those of repeated layers are equal.
Solved = dict[Hashable, Any]

# Least cost of computing a pointwise value, as a share of its bytes: it breaks ties towards
# computing less, and is small enough never to outweigh a byte of a real tensor.
_RECOMPUTE = 2e-5
# Share of an operation's time that moving bytes does not hide, while kernels wait for memory.
_OVERLAP = 0.05
_GIGA = 1e9
# Loops compute more than the values behind them show: index arithmetic, above all.
_CAUTION = 2.0
# HiGHS stops when its plan is proven to be within this share of the best.
_GAP = 1e-4


@dataclass(frozen=True)
class Solution:
    """A plan for one group of kernels.

    Attributes:
        homes: value -> kernel that materializes it.
        bound: certified, in bytes.
        work: what it took; see :meth:`Program.solve`.
    """

    homes: dict[int, int]
    bound: float
    work: int = 0


class Program:
    """The program of one group of kernels.

    Args:
        limits: a kernel that takes more buffers in the trial lowering than allowed keeps them.
        banned: (value, kernel) pairs that a trial lowering showed Inductor not to fuse.
    """

    def __init__(
        self,
        dag: Dag,
        group: list[Cone],
        limits: Limits,
        banned: Set[tuple[int, int]] = frozenset(),
    ) -> None:
        self._dag = dag
        self._group = group
        self._limits = limits
        self._banned = banned
        self._homes = dag.homes()
        self._cost: list[float] = []
        self._lower: list[int] = []
        self._continuous: list[int] = []
        self._slack = 0.0
        self._rows: list[list[tuple[int, float]]] = []
        self._least: list[float] = []
        self._compute: dict[tuple[int, int], int] = {}
        self._read: dict[tuple[int, int], int] = {}
        self._write: dict[int, dict[int, int]] = {}  # value -> kernel -> column
        self._too_large = entries(dag, group) > MOST_ENTRIES
        if self._too_large:
            return
        self._add_writes()
        for cone in group:
            self._add_kernel(cone)
        self._link_reads()
        self._link_writes()

    @property
    def entries(self) -> int:
        """Entries in its rows: its size, which the time for each step of the solver follows."""
        return sum(map(len, self._rows))

    def solve(
        self, work: int, deadline: Deadline = FOREVER, solved: Solved | None = None
    ) -> Solution | None:
        """The best plan found with ``work``, None when there is none.

        Work is counted in branches times :attr:`entries`, so that it is the same on every machine.
        Programs of equal numbers have equal solutions: what ``solved`` holds is not solved again.

        Raises:
            OutOfTime: the ``deadline`` has passed.
        """
        if self._too_large:
            return None
        if not self._cost:
            return Solution({}, 0.0)
        if self.entries > self._limits.solve_entries or work <= 0:
            return None
        solved = {} if solved is None else solved
        # The largest cost becomes 1: HiGHS's tolerances are absolute.
        scale = max(self._cost) or 1.0
        key = self._numbers()
        result = solved.get(key)
        if result is None:
            result = self._milp(scale, max(work // max(self.entries, 1), 1), deadline)
            if result.success:
                solved[key] = result
        if result.x is None:
            return None
        homes = {
            value: kernel
            for value, by_kernel in self._write.items()
            for kernel, column in by_kernel.items()
            if result.x[column] > 0.5
        }
        bound = (result.mip_dual_bound or 0.0) * scale - self._slack
        return Solution(homes, bound, (result.mip_node_count or 0) * self.entries)

    def _milp(self, scale: float, branches: int, deadline: Deadline) -> Any:
        columns = len(self._cost)
        upper, integrality = np.ones(columns), np.ones(columns)
        upper[self._continuous] = np.inf
        integrality[self._continuous] = 0
        result = milp(
            np.array(self._cost) / scale,
            constraints=self._constraints(columns),
            bounds=Bounds(np.array(self._lower, dtype=float), upper),
            integrality=integrality,
            options={
                "node_limit": branches,
                "time_limit": deadline.left(),
                "mip_rel_gap": _GAP,
            },
        )
        deadline.check()  # the solver says that it stopped early, and not why
        return result

    def _numbers(self) -> Hashable:
        """The integer program as the solver takes it."""
        rows = tuple(map(tuple, self._rows))
        bounds = (tuple(self._lower), tuple(self._least), tuple(self._continuous))
        return tuple(self._cost), rows, *bounds

    def _constraints(self, columns: int) -> LinearConstraint:
        entries = [(r, c, v) for r, terms in enumerate(self._rows) for c, v in terms]
        rows, cols, values = zip(*entries, strict=True) if entries else ((), (), ())
        matrix = csr_matrix((values, (rows, cols)), shape=(len(self._rows), columns))
        return LinearConstraint(matrix, np.array(self._least), np.inf)

    def _column(self, cost: float, lower: int = 0) -> int:
        self._cost.append(cost)
        self._lower.append(lower)
        return len(self._cost) - 1

    def _at_least(self, terms: list[tuple[int, float]], bound: float = 0.0) -> None:
        self._rows.append(terms)
        self._least.append(bound)

    def _add_writes(self) -> None:
        """A column for each buffer that somebody besides its own kernel may read."""
        seen: dict[int, int] = {}
        for cone in self._group:
            for i in cone.inside | cone.edge | cone.cut:
                base = self._dag.values[i].base
                for one in {i, base}:
                    seen[one] = seen.get(one, 0) + 1
        for cone in self._group:
            kernel = cone.kernel
            byte = self._limits.weights(kernel).write
            for i in sorted(cone.inside):
                value = self._dag.values[i]
                if value.kind in (Kind.VIEW, Kind.SOURCE):
                    continue
                if seen[i] < 2 and not value.required:
                    continue
                if self._dag.fixed(i):
                    if self._homes.get(i) == kernel.index:
                        column = self._column(byte * value.nbytes, int(value.required))
                        self._write.setdefault(i, {})[kernel.index] = column
                elif self._may_write(i, cone):
                    column = self._column(byte * value.nbytes)
                    self._write.setdefault(i, {})[kernel.index] = column

    def _may_write(self, index: int, cone: Cone) -> bool:
        """Whether a plan may have a kernel write a value that need not be written."""
        kernel = cone.kernel
        if index in self._dag.never or (index, kernel.index) in self._banned:
            return False
        return self._dag.values[index].numel in kernel.numels

    def _add_kernel(self, cone: Cone) -> None:
        values, k = self._dag.values, cone.kernel.index
        weights = self._limits.weights(cone.kernel)
        inside = sorted(cone.inside)  # so that equal layers make equal programs
        for i in inside:
            cost = self._recompute(values[i], weights.operation)
            self._compute[k, i] = self._column(cost, int(i in cone.roots))
            self._slack += cost
        # Every buffer that the kernel may take: its column, what moving it costs.
        taken = [
            (self._write[i][k], weights.write * values[i].nbytes)
            for i in inside
            if k in self._write.get(i, {})
        ]
        reach = cone.inside | cone.edge | cone.cut
        for i in sorted(reach | {values[i].base for i in reach}):
            if self._readable(i, k):
                cost = weights.read * self._dag.read_bytes(i, k)
                self._read[k, i] = self._column(cost)
                taken.append((self._read[k, i], cost))
        for i in inside:
            for ways in self._needs(values[i], k):
                terms = [(way, 1.0) for way in ways if way is not None]
                self._at_least([*terms, (self._compute[k, i], -1.0)])
        if self._limits.hidden:
            self._add_excess(cone, taken)
        room = max(self._limits.arguments, cone.buffers)
        if len(taken) > room:
            self._at_least([(column, -1.0) for column, _ in taken], -float(room))

    def _needs(self, value: Value, kernel: int) -> Iterator[tuple[int | None, ...]]:
        """For each thing that computing a value needs, the columns that provide it."""
        if value.kind is Kind.VIEW:
            # Who reads a value from memory reads each of its views by itself.
            yield (self._compute.get((kernel, value.base)),)
            return
        for x in value.inputs:
            # Views of one buffer cost at most the buffer, which serves them all.
            whole = self._dag.values[x].base
            readable = dict.fromkeys((x, whole))
            yield self._compute.get((kernel, x)), *(self._read.get((kernel, i)) for i in readable)

    def _add_excess(self, cone: Cone, taken: Sequence[tuple[int, float]]) -> None:
        """Where a kernel would compute for longer than it moves bytes, that time counts.

        ``taken`` holds the columns of the buffers that it may take, with what moving them costs.
        In gigabytes: its row would otherwise dwarf the rest, which are in units.
        """
        values, kernel = self._dag.values, cone.kernel
        weights = self._limits.weights(kernel)
        largest = max(kernel.numels, default=0)
        work: list[tuple[int, float]] = []
        for i in sorted(cone.inside):
            # A value that is broadcast into a larger loop is computed at each of its points.
            points = values[i].numel if values[i].numel in kernel.numels else largest
            operations = values[i].work / max(values[i].numel, 1) * points
            cost = _CAUTION * weights.operation * operations
            work.append((self._compute[kernel.index, i], cost))
        if sum(w for _, w in work) <= min(weights.read, weights.write) * kernel.measured:
            return
        excess = self._column(_GIGA)
        self._continuous.append(excess)
        terms = [(c, w / _GIGA) for c, w in taken] + [(c, -w / _GIGA) for c, w in work]
        self._at_least([(excess, 1.0), *terms])

    def _recompute(self, value: Value, operation: float) -> float:
        if value.kind is not Kind.POINTWISE:
            return 0.0  # a reduction is computed in one place, a view costs nothing
        each = _OVERLAP * operation if self._limits.hidden else operation
        return max(_RECOMPUTE * value.nbytes, each * value.work)

    def _readable(self, index: int, kernel: int) -> bool:
        base = self._dag.values[index].base
        if self._dag.values[base].kind is Kind.SOURCE:
            return True
        return any(maker < kernel for maker in self._write.get(base, {}))

    def _link_reads(self) -> None:
        """A read needs a write in an earlier kernel."""
        for (k, i), column in self._read.items():
            base = self._dag.values[i].base
            if self._dag.values[base].kind is not Kind.SOURCE:
                makers = [(c, 1.0) for maker, c in self._write[base].items() if maker < k]
                self._at_least([*makers, (column, -1.0)])

    def _link_writes(self) -> None:
        """One writer, which computes what it writes; nobody else computes it then."""
        for i, by_kernel in self._write.items():
            if len(by_kernel) > 1:
                self._at_least([(column, -1.0) for column in by_kernel.values()], -1.0)
            for k, column in by_kernel.items():
                self._at_least([(self._compute[k, i], 1.0), (column, -1.0)])
        for (k, i), column in self._compute.items():
            others = [(c, -1.0) for maker, c in self._write.get(i, {}).items() if maker != k]
            if others and not self._dag.fixed(i):
                self._at_least([*others, (column, -1.0)], -1.0)
