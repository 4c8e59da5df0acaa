"""The integer program behind a plan: which values become buffers, and where.

Columns, all 0 or 1: kernel ``k`` computes value ``i``; ``k`` reads ``i`` from memory; ``k``
writes ``i``.  The cost is bytes read and written.  Rows say what a fused kernel can do: an
input is computed or read; a read needs a write in an earlier kernel; one kernel writes a
value, and it computes it; no kernel recomputes what is in memory, since Inductor's loaders
read a buffer where there is one.  Held fixed: the kernels of one dry run, their order, what
they must produce, and which values each could compute at all (:mod:`.cones`).
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_matrix

from .cones import Cone
from .dag import Dag, Kind

__all__ = ["Program", "Solution"]

# Cost of computing a pointwise value once more, as a share of its bytes.  It breaks ties
# towards computing less, and is small enough never to outweigh a byte of a real tensor.
_RECOMPUTE = 2e-5
# HiGHS stops when its plan is proven to be within this share of the best.
_GAP = 1e-6


@dataclass(frozen=True)
class Solution:
    """``homes``: value -> kernel that materializes it; ``bound``: certified, in bytes."""

    homes: dict[int, int]
    bound: float


class Program:
    """The program of one group of kernels.

    Args:
        arguments: the most buffers that a kernel may take; a kernel that has more in the dry
            run keeps what it has.
        banned: (value, kernel) pairs that a dry run showed Inductor not to fuse.
    """

    def __init__(
        self, dag: Dag, group: list[Cone], arguments: int, banned: Set[tuple[int, int]]
    ) -> None:
        self._dag = dag
        self._group = group
        self._arguments = arguments
        self._banned = banned
        self._homes = dag.homes()
        self._cost: list[float] = []
        self._lower: list[int] = []
        self._slack = 0.0
        self._rows: list[list[tuple[int, float]]] = []
        self._least: list[float] = []
        self._compute: dict[tuple[int, int], int] = {}
        self._read: dict[tuple[int, int], int] = {}
        self._write: dict[int, dict[int, int]] = {}  # value -> kernel -> column
        self._add_writes()
        for cone in group:
            self._add_kernel(cone)
        self._link_reads()
        self._link_writes()

    def solve(self, seconds: float) -> Solution | None:
        """The best plan found in ``seconds``, None when there is none or nothing to decide."""
        columns = len(self._cost)
        if not columns:
            return Solution({}, 0.0)
        # The largest cost becomes 1: HiGHS's tolerances are absolute.
        scale = max(self._cost) or 1.0
        result: Any = milp(
            np.array(self._cost) / scale,
            constraints=self._constraints(columns),
            bounds=Bounds(np.array(self._lower, dtype=float), 1.0),
            integrality=np.ones(columns),
            options={"time_limit": max(seconds, 0.05), "mip_rel_gap": _GAP},
        )
        if result.x is None:
            return None
        homes = {
            value: kernel
            for value, by_kernel in self._write.items()
            for kernel, column in by_kernel.items()
            if result.x[column] > 0.5
        }
        return Solution(homes, (result.mip_dual_bound or 0.0) * scale - self._slack)

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
            for i in cone.inside:
                value = self._dag.values[i]
                if value.kind in (Kind.VIEW, Kind.SOURCE):
                    continue
                if seen[i] < 2 and not value.required:
                    continue
                if self._dag.fixed(i):
                    if self._homes.get(i) == kernel.index:
                        column = self._column(value.nbytes, int(value.required))
                        self._write.setdefault(i, {})[kernel.index] = column
                elif value.numel in kernel.numels and (i, kernel.index) not in self._banned:
                    column = self._column(value.nbytes)
                    self._write.setdefault(i, {})[kernel.index] = column

    def _add_kernel(self, cone: Cone) -> None:
        values, k = self._dag.values, cone.kernel.index
        for i in cone.inside:
            tie = _RECOMPUTE * values[i].nbytes if values[i].kind is Kind.POINTWISE else 0.0
            self._compute[k, i] = self._column(tie, int(i in cone.roots))
            self._slack += tie
        for i in cone.inside | cone.edge | cone.cut:
            if self._readable(i, k):
                self._read[k, i] = self._column(values[i].nbytes)
        for i in cone.inside:
            for x in values[i].inputs:
                ways = (self._compute.get((k, x)), self._read.get((k, x)))
                terms = [(way, 1.0) for way in ways if way is not None]
                self._at_least([*terms, (self._compute[k, i], -1.0)])
        taken = [column for (kernel, _), column in self._read.items() if kernel == k]
        taken += [by_kernel[k] for by_kernel in self._write.values() if k in by_kernel]
        room = max(self._arguments, len(cone.kernel.writes) + len(cone.edge))
        if len(taken) > room:
            self._at_least([(column, -1.0) for column in taken], -float(room))

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
