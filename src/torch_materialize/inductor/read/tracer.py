"""A loop's body run on numbered values, to learn what it loads through indices.

Equal indices are known to be equal, in one loop or in two that are fused (Cocke's value
numbering).  The work is linear in the operations of the body.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import sympy
from torch._inductor.dependencies import MemoryDep
from torch._inductor.ops_handler import DefaultHandler
from torch._inductor.virtualized import V
from torch.utils._pytree import tree_leaves
from torch.utils._sympy.functions import Identity

from .columns import Columns, Key, Touched
from .storage import elements

__all__ = ["UNKNOWN", "Tracer"]

_Bounds = Mapping[sympy.Symbol, tuple[int, int]]  # first and last of a loop
#: More elements than any buffer has.
UNKNOWN = 1 << 62


@dataclass(frozen=True)
class _Value:
    """What a loop computes.

    Attributes:
        number: equal for what is computed alike, over the same loops.
        rows: equal for what takes the same values, over whatever loops; None if unknown.
        loops: over which it varies.
        most: how many values it takes at most.
        expression: of loops and constants, where it is one.
        bounds: of the loops, where it is a condition that holds.
    """

    number: int
    rows: int | None
    loops: frozenset[sympy.Symbol] = frozenset()
    most: int = 1
    expression: Any = None
    bounds: _Bounds = field(default_factory=dict, compare=False)

    def __getitem__(self, _place: int) -> _Value:
        """One of several results: which, an index never depends on in practice."""
        return _Value(self.number, None, self.loops, self.most)


class _Loops:
    """The loops of a body, and the masks around what is run: where loads are."""

    def __init__(self, bounds: _Bounds) -> None:
        self.bounds = bounds
        self.within: list[_Bounds] = []

    def of(self, expression: Any) -> frozenset[sympy.Symbol]:
        """The loops over which an expression varies."""
        return frozenset(expression.free_symbols & self.bounds.keys())

    def points(self, loops: Iterable[sympy.Symbol]) -> int:
        """How often what varies over some loops is run."""
        return math.prod(_extent(self.bounds[var]) for var in loops)

    def extents(self, loops: Iterable[sympy.Symbol]) -> Key:
        """Some loops with their bounds."""
        return tuple((str(var), self.bounds[var]) for var in sorted(loops, key=str))

    def key(self, index: Any, loops: Iterable[sympy.Symbol]) -> Key:
        """The same for equal indices over equal loops."""
        return str(index), self.extents(loops)

    def each(self, behind: Any, loops: Any, key: Key) -> Columns:
        """Of an index that varies over a loop over which its columns vary, too: each point."""
        ranges = self.ranges() | {var: self.bounds[var] for var in behind}
        count = math.prod(_extent(ranges[var]) for var in behind | loops)
        bounds = tuple((str(v), ranges[v]) for v in sorted(behind | loops, key=str))
        return Columns(0, 0, 0, count, (*key, bounds))

    def beside(self, index: Any, loops: Any, indices: Set[sympy.Symbol]) -> Columns | None:
        """The addresses of a sum of loops, each with a stride; None for anything else.

        What is left of such a sum holds no loop, and none of the ``indices``.
        """
        ranges = self.ranges()
        strides = {var: index.coeff(var) for var in loops}
        rest = sympy.expand(index - sum(stride * var for var, stride in strides.items()))
        symbols = rest.free_symbols.union(*(s.free_symbols for s in strides.values()))
        if symbols & (self.bounds.keys() | indices):
            return None  # inside of a division, say
        first = last = elements(rest)
        runs = []
        for var, stride in strides.items():
            step, (low, high) = elements(stride), ranges[var]
            if high < low:
                return Columns(0, -1, 1, 0, ())
            first += min(step * low, step * high)
            last += max(step * low, step * high)
            if high > low and step:
                runs.append((abs(step), high - low + 1))
        step = math.gcd(*(s for s, _ in runs)) if runs else 1
        count = min(math.prod(n for _, n in runs), (last - first) // step + 1)
        return Columns(first, last, step, count, tuple(sorted(runs)))

    def ranges(self) -> dict[sympy.Symbol, tuple[int, int]]:
        """The loops' ranges under the masks around."""
        ranges = dict(self.bounds)
        for bounds in self.within:
            for var, (first, last) in bounds.items():
                low, high = ranges[var]
                ranges[var] = max(low, first), min(high, last)
        return ranges


class Tracer(DefaultHandler):
    """Runs a loop's body on :class:`_Value` instead of numbers."""

    def __init__(self, touched: Touched, bounds: _Bounds) -> None:
        self._touched = touched
        self._loops = _Loops(bounds)
        self._indices: dict[sympy.Symbol, _Value] = {}

    def _default(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Value:
        parts = tree_leaves((args, kwargs))
        values = [part for part in parts if isinstance(part, _Value)]
        rest = tuple(str(part) for part in parts if not isinstance(part, _Value))
        # Of two that vary the set of pairs is unknown, though both sets are known.
        varying = {value.number for value in values if value.loops}
        loops = frozenset().union(*(value.loops for value in values))
        # Over its loops a value is computed once for each point.  Without that limit the product
        # has twice the digits after each operation.
        most = math.prod({value.number: value.most for value in values}.values())
        rows = None
        if len(varying) <= 1 and all(value.rows is not None for value in values):
            rows = self._touched.number("rows", name, rest, *(value.rows for value in values))
        return _Value(
            self._touched.number(name, rest, *(value.number for value in values)),
            rows,
            loops,
            min(most, self._loops.points(loops), UNKNOWN),
            bounds=self._implied(name, values),
        )

    def _implied(self, name: str, values: list[_Value]) -> _Bounds:
        """What a comparison of a loop with a constant says of the loop."""
        if name in ("and_", "logical_and", "bitwise_and"):
            found: dict[sympy.Symbol, tuple[int, int]] = {}
            for value in values:
                for var, (first, last) in value.bounds.items():
                    low, high = found.get(var, (first, last))
                    found[var] = max(low, first), min(high, last)
            return found
        if len(values) != 2 or name not in ("lt", "le", "gt", "ge"):
            return {}
        var, limit = (value.expression for value in values)
        if var not in self._loops.bounds or not isinstance(limit, sympy.Integer):
            return {}
        first, last = self._loops.bounds[var]
        at = int(limit)
        return {
            "lt": {var: (first, min(last, at - 1))},
            "le": {var: (first, min(last, at))},
            "gt": {var: (max(first, at + 1), last)},
            "ge": {var: (max(first, at), last)},
        }[name]

    def constant(self, value: Any, dtype: Any) -> _Value:
        """A number of its own for each constant."""
        number = self._touched.number("constant", repr(value), str(dtype))
        return _Value(number, number, expression=sympy.sympify(value))

    def index_expr(self, expr: Any, dtype: Any) -> _Value:
        """An expression of the loops: known here, equal elsewhere only over the same loops."""
        plain = _plain(expr)
        loops = self._loops.of(plain)
        number = self._touched.number("index", plain, str(dtype), self._loops.extents(loops))
        return _Value(number, None if loops else number, loops, self._loops.points(loops), plain)

    def masked(self, mask: _Value, body: Any, other: Any) -> _Value:
        """What is loaded under a mask is loaded where the mask holds."""
        self._loops.within.append(mask.bounds)
        try:
            value = body()
        finally:
            self._loops.within.pop()
        return self._default("masked", (mask, value, other), {})

    def indirect_indexing(
        self, x: _Value, size: Any, check: bool = True, wrap_neg: bool = True
    ) -> sympy.Symbol:
        """A symbol for an index; equal indices get the same."""
        symbol = sympy.Symbol(f"gathered{x.number}", integer=True, nonnegative=True)
        most = min(x.most, elements(size) or UNKNOWN)
        known = self._indices.get(symbol)
        if known is None or most < known.most:
            self._indices[symbol] = _Value(x.number, x.rows, x.loops, most)
        return symbol

    def load(self, name: str, index: Any) -> _Value:
        """Notes a load through an index; every load is a value."""
        plain = _plain(index)
        indices = plain.free_symbols & self._indices.keys()
        loops = self._loops.of(plain)
        if indices:
            self._gather(name, plain, sorted(indices, key=str), loops)
            through = [self._indices[symbol] for symbol in indices]
            loops = loops.union(*(value.loops for value in through))
        number = self._touched.number("load", name, plain, self._loops.extents(loops))
        most = min(self._loops.points(loops), elements(V.graph.get_numel(name)) or UNKNOWN)
        return _Value(number, self._same(name, plain, indices), loops, most)

    def _same(self, name: str, index: Any, indices: Any) -> int | None:
        """A number for the set of elements that a direct load reads, over whatever loops."""
        if indices:
            return None
        sizes = {var: last + 1 for var, (_, last) in self._loops.bounds.items()}
        read = MemoryDep(name, index, tuple(sizes), tuple(map(sympy.Integer, sizes.values())))
        read = read.normalize()
        return self._touched.number("read", name, read.index, read.size)

    def _gather(self, name: str, index: Any, indices: list[Any], loops: Any) -> None:
        through = [self._indices[symbol] for symbol in indices]
        behind: frozenset[sympy.Symbol] = frozenset().union(*(value.loops for value in through))
        coefficients = [index.coeff(symbol) for symbol in indices]
        through_them = sum(c * s for c, s in zip(coefficients, indices, strict=True))
        beside = sympy.expand(index - through_them)
        columns = self._loops.beside(beside, loops, self._indices.keys())
        strides = [
            coefficient.free_symbols & self._loops.bounds.keys() for coefficient in coefficients
        ]
        if columns is None or any(strides) or beside.free_symbols & self._indices.keys():
            # Not a sum of an index and loops: as many as the loops that it depends on have points.
            key = self._loops.key(index, behind | loops)
            whole = self._loops.points(behind | loops)
            self._touched.note(name, ("points", *key), 1, Columns(0, 0, 0, whole, key))
        elif behind & loops:
            key = self._loops.key(index, behind | loops)
            self._touched.note(name, ("points", *key), 1, self._loops.each(behind, loops, key))
        else:
            rows = min(self._loops.points(behind), math.prod(value.most for value in through))
            alike = len(through) == 1 and through[0].rows is not None
            names = [("rows", v.rows) if alike else ("number", v.number) for v in through]
            self._touched.note(name, (*names, *map(str, coefficients)), rows, columns)


def _plain(expression: Any) -> Any:
    """Without the marks that keep Inductor from simplifying it."""
    if not isinstance(expression, sympy.Expr):
        return sympy.sympify(expression)
    return sympy.expand(expression.replace(Identity, lambda inner: inner))


def _extent(bounds: tuple[int, int]) -> int:
    return max(bounds[1] - bounds[0] + 1, 0)
