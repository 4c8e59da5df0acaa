"""How many elements one kernel can touch through indices that it loads.

The rule: *loads of one buffer through equal indices share their rows, and a row counts once for
each element that some load can touch*.  A row is what one value of the index selects; loops that
neither the index nor what is added to it varies over read the same again (the heads that share a
row of rotary angles), loads under complementary masks divide a row between them (the halves of a
rotation).  What indices hold is unknown, so that two loads through different indices, or through
an index that varies over the same loop as what is added to it, add up.  This is an upper bound of
the distinct elements, as everywhere: caches serve what one kernel reads again.

A loop's body is run once with values that are numbered (Cocke's value numbering), so that equal
indices are known to be equal, in one loop or in two that are fused.  The work is linear in the
operations of the body.  A body that is too large for that, by counts and not by a clock, is not
run: each of its accesses counts as elements of its own, which is an upper bound as well.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import sympy
from torch._inductor.dependencies import MemoryDep
from torch._inductor.loop_body import MemoryUsageType
from torch._inductor.ops_handler import DefaultHandler
from torch._inductor.virtualized import V
from torch.utils._pytree import tree_leaves
from torch.utils._sympy.functions import Identity

from .storage import elements, points

__all__ = ["Gathers"]

_Bounds = Mapping[sympy.Symbol, tuple[int, int]]  # first and last of a loop
_Key = tuple[Any, ...]
_UNKNOWN = 1 << 62
# Bodies beyond these are not run.  Upstream unrolls a pool's window into some 60 operations and
# two indices for each of its places; a body of 100 places stays far below.
_MOST_OPERATIONS = 50_000
# Each index that is loaded is put into every expression of its body (`LoopBody.replace_indirect`).
_MOST_REPLACED = 200_000
# Terms of one expression once its products are multiplied out, and its operands before.
_MOST_TERMS = 2_000


class Gathers:
    """What the loops of one kernel read through indices: :meth:`add` each, then ask."""

    def __init__(self) -> None:
        self._numbers: dict[_Key, int] = {}
        self._columns: dict[str, dict[_Key, set[_Columns]]] = {}  # by buffer and index
        self._rows: dict[tuple[str, _Key], int] = {}

    def add(self, member: Any) -> None:
        """Adds the loads of a scheduled node."""
        body = member._body
        if _is_too_large(body):
            for place, name in enumerate(_gathering(body)):
                key = "apart", member.get_name(), place
                self.touch(name, key, 1, _Columns(0, 0, 0, points(member), key))
            return
        loops = {var: (0, elements(size) - 1) for var, size in body.var_ranges.items()}
        with V.set_ops_handler(_Tracer(self, loops)):
            body(list(loops), allow_same_symbol_in_index=True)

    def names(self) -> set[str]:
        """The buffers that are read so, as the loops call them."""
        return set(self._columns)

    def elements(self, name: str) -> int:
        """Distinct elements of a buffer that these loads can touch, at most."""
        return sum(
            self._rows[name, index] * _union(columns)
            for index, columns in self._columns.get(name, {}).items()
        )

    def number(self, *key: Any) -> int:
        """The same number for equal keys."""
        return self._numbers.setdefault(key, len(self._numbers))

    def touch(self, name: str, index: _Key, rows: int, columns: _Columns) -> None:
        """Notes that a load touches some columns of the rows that an index selects."""
        key = name, index
        self._columns.setdefault(name, {}).setdefault(index, set()).add(columns)
        self._rows[key] = min(rows, self._rows.get(key, rows))


@dataclass(frozen=True)
class _Columns:
    """Addresses beside an index, in elements: an arithmetic progression's, or as many.

    ``step`` is 0 where no more is known than their number.
    """

    first: int
    last: int
    step: int
    count: int
    key: _Key


def _union(columns: Iterable[_Columns]) -> int:
    """Of several sets the distinct addresses, at most: their sum, or all that lie between."""
    all_of = [one for one in columns if one.count]
    total = sum(one.count for one in all_of)
    if not all(one.step for one in all_of) or not all_of:
        return total
    first = min(one.first for one in all_of)
    step = math.gcd(*(one.step for one in all_of), *(one.first - first for one in all_of))
    return min(total, (max(one.last for one in all_of) - first) // max(step, 1) + 1)


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


class _Tracer(DefaultHandler):
    """Runs a loop's body on :class:`_Value` instead of numbers."""

    def __init__(self, found: Gathers, loops: _Bounds) -> None:
        self._found = found
        self._loops = loops
        self._within: list[_Bounds] = []
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
            rows = self._found.number("rows", name, rest, *(value.rows for value in values))
        return _Value(
            self._found.number(name, rest, *(value.number for value in values)),
            rows,
            loops,
            min(most, self._points(loops), _UNKNOWN),
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
        if var not in self._loops or not isinstance(limit, sympy.Integer):
            return {}
        first, last = self._loops[var]
        at = int(limit)
        return {
            "lt": {var: (first, min(last, at - 1))},
            "le": {var: (first, min(last, at))},
            "gt": {var: (max(first, at + 1), last)},
            "ge": {var: (max(first, at), last)},
        }[name]

    def constant(self, value: Any, dtype: Any) -> _Value:
        """A number of its own for each constant."""
        number = self._found.number("constant", repr(value), str(dtype))
        return _Value(number, number, expression=sympy.sympify(value))

    def index_expr(self, expr: Any, dtype: Any) -> _Value:
        """An expression of the loops: known here, equal elsewhere only over the same loops."""
        plain = _plain(expr)
        loops = frozenset(plain.free_symbols & self._loops.keys())
        number = self._found.number("index", plain, str(dtype), self._extents(loops))
        return _Value(number, None if loops else number, loops, self._points(loops), plain)

    def masked(self, mask: _Value, body: Any, other: Any) -> _Value:
        """What is loaded under a mask is loaded where the mask holds."""
        self._within.append(mask.bounds)
        try:
            value = body()
        finally:
            self._within.pop()
        return self._default("masked", (mask, value, other), {})

    def indirect_indexing(
        self, x: _Value, size: Any, check: bool = True, wrap_neg: bool = True
    ) -> sympy.Symbol:
        """A symbol for an index; equal indices get the same."""
        symbol = sympy.Symbol(f"gathered{x.number}", integer=True, nonnegative=True)
        most = min(x.most, elements(size) or _UNKNOWN)
        known = self._indices.get(symbol)
        if known is None or most < known.most:
            self._indices[symbol] = _Value(x.number, x.rows, x.loops, most)
        return symbol

    def load(self, name: str, index: Any) -> _Value:
        """Notes a load through an index; every load is a value."""
        plain = _plain(index)
        indices = plain.free_symbols & self._indices.keys()
        loops = frozenset(plain.free_symbols & self._loops.keys())
        if indices:
            self._gather(name, plain, sorted(indices, key=str), loops)
            through = [self._indices[symbol] for symbol in indices]
            loops = loops.union(*(value.loops for value in through))
        number = self._found.number("load", name, plain, self._extents(loops))
        most = min(self._points(loops), elements(V.graph.get_numel(name)) or _UNKNOWN)
        return _Value(number, self._same(name, plain, indices), loops, most)

    def _same(self, name: str, index: Any, indices: Any) -> int | None:
        """A number for the set of elements that a direct load reads, over whatever loops."""
        if indices:
            return None
        sizes = {var: last + 1 for var, (_, last) in self._loops.items()}
        read = MemoryDep(name, index, tuple(sizes), tuple(map(sympy.Integer, sizes.values())))
        read = read.normalize()
        return self._found.number("read", name, read.index, read.size)

    def _gather(self, name: str, index: Any, indices: list[Any], loops: Any) -> None:
        through = [self._indices[symbol] for symbol in indices]
        behind: frozenset[sympy.Symbol] = frozenset().union(*(value.loops for value in through))
        coefficients = [index.coeff(symbol) for symbol in indices]
        through_them = sum(c * s for c, s in zip(coefficients, indices, strict=True))
        beside = sympy.expand(index - through_them)
        columns = self._beside(beside, loops)
        strides = [coefficient.free_symbols & self._loops.keys() for coefficient in coefficients]
        if columns is None or any(strides) or beside.free_symbols & self._indices.keys():
            # Not a sum of an index and loops: as many as the loops that it depends on have points.
            key = self._key(index, behind | loops)
            whole = self._points(behind | loops)
            self._found.touch(name, ("points", *key), 1, _Columns(0, 0, 0, whole, key))
        elif behind & loops:
            key = self._key(index, behind | loops)
            self._found.touch(name, ("points", *key), 1, self._each(behind, loops, key))
        else:
            rows = min(self._points(behind), math.prod(value.most for value in through))
            alike = len(through) == 1 and through[0].rows is not None
            names = [("rows", v.rows) if alike else ("number", v.number) for v in through]
            self._found.touch(name, (*names, *map(str, coefficients)), rows, columns)

    def _each(self, behind: Any, loops: Any, key: _Key) -> _Columns:
        """Of an index that varies over a loop over which its columns vary, too: each point."""
        ranges = self._ranges() | {var: self._loops[var] for var in behind}
        count = math.prod(_extent(ranges[var]) for var in behind | loops)
        bounds = tuple((str(v), ranges[v]) for v in sorted(behind | loops, key=str))
        return _Columns(0, 0, 0, count, (*key, bounds))

    def _beside(self, index: Any, loops: Any) -> _Columns | None:
        """The addresses of a sum of loops, each with a stride; None for anything else."""
        ranges = self._ranges()
        strides = {var: index.coeff(var) for var in loops}
        rest = sympy.expand(index - sum(stride * var for var, stride in strides.items()))
        symbols = rest.free_symbols.union(*(s.free_symbols for s in strides.values()))
        if symbols & (self._loops.keys() | self._indices.keys()):
            return None  # inside of a division, say
        first = last = elements(rest)
        runs = []
        for var, stride in strides.items():
            step, (low, high) = elements(stride), ranges[var]
            if high < low:
                return _Columns(0, -1, 1, 0, ())
            first += min(step * low, step * high)
            last += max(step * low, step * high)
            if high > low and step:
                runs.append((abs(step), high - low + 1))
        step = math.gcd(*(s for s, _ in runs)) if runs else 1
        count = min(math.prod(n for _, n in runs), (last - first) // step + 1)
        return _Columns(first, last, step, count, tuple(sorted(runs)))

    def _ranges(self) -> dict[sympy.Symbol, tuple[int, int]]:
        """The loops' ranges under the masks around."""
        ranges = dict(self._loops)
        for bounds in self._within:
            for var, (first, last) in bounds.items():
                low, high = ranges[var]
                ranges[var] = max(low, first), min(high, last)
        return ranges

    def _points(self, loops: Iterable[sympy.Symbol]) -> int:
        return math.prod(_extent(self._loops[var]) for var in loops)

    def _extents(self, loops: Iterable[sympy.Symbol]) -> _Key:
        return tuple((str(var), self._loops[var]) for var in sorted(loops, key=str))

    def _key(self, index: Any, loops: Iterable[sympy.Symbol]) -> _Key:
        return str(index), self._extents(loops)


def _extent(bounds: tuple[int, int]) -> int:
    return max(bounds[1] - bounds[0] + 1, 0)


def _is_too_large(body: Any) -> bool:
    """Whether running a loop's body would take much longer than Inductor takes to make it."""
    if sum(body.op_counts.values()) > _MOST_OPERATIONS:
        return True
    expressions = body.indexing_exprs.values()
    if len(body.indirect_vars) * len(expressions) > _MOST_REPLACED:
        return True
    return any(_terms(sympy.sympify(one)) > _MOST_TERMS for one in expressions)


def _gathering(body: Any) -> Iterator[str]:
    """The buffer of each load of a body that goes through an index."""
    indices = set(body.indirect_vars)
    for entry in body.memory_usage[MemoryUsageType.LOAD]:
        if not indices.isdisjoint(
            sympy.sympify(body.indexing_exprs[entry.index_name]).free_symbols
        ):
            yield entry.buffer_name


def _terms(expression: Any) -> int:
    """Terms that an expression has at most once its products are multiplied out.

    Beyond :data:`_MOST_TERMS` operands nobody counts on.
    """
    nodes = list(itertools.islice(sympy.preorder_traversal(expression), _MOST_TERMS + 1))
    if len(nodes) > _MOST_TERMS:
        return len(nodes)
    counts: dict[Any, int] = {}
    for node in reversed(nodes):  # operands before what is made of them
        inner = [counts[operand] for operand in node.args]
        if isinstance(node, sympy.Mul):
            count = math.prod(inner)
        elif isinstance(node, sympy.Pow) and isinstance(node.exp, sympy.Integer):
            count = inner[0] ** min(abs(int(node.exp)), _MOST_TERMS.bit_length())
        else:
            count = sum(inner)
        counts[node] = min(max(count, 1), _UNKNOWN)
    return counts[expression]


def _plain(expression: Any) -> Any:
    """Without the marks that keep Inductor from simplifying it."""
    if not isinstance(expression, sympy.Expr):
        return sympy.sympify(expression)
    return sympy.expand(expression.replace(Identity, lambda inner: inner))
