"""What upstream works out about index expressions, kept from one trial lowering to the next.

A search lowers one graph several times, and most of its index expressions are the same each time.
Upstream simplifies each anew in every lowering: a third of the time in a Swin, which views a lot.
Where no size is symbolic, what it finds follows from the expression and the ranges of its loop
variables alone, so it is kept for all graphs of the process.

Kept are upstream's pure functions, not the caches that it puts around some of them: those also
remember that a result needs nothing more, so they depend on what was asked before, and a trial
lowering would not be what ships.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import sympy
from torch._inductor.sizevars import SizeVarAllocator
from torch.fx.experimental.symbolic_shapes import ShapeEnv

__all__ = ["StaticSizes", "is_static"]

# Expressions: several times those of the largest graph of the corpus.
_KEPT = 1 << 16


def is_static(shape_env: ShapeEnv) -> bool:
    """Whether no size is symbolic: nothing then depends on what ``shape_env`` knows."""
    return not shape_env.var_to_range and not shape_env.replacements


class StaticSizes(SizeVarAllocator):
    """Upstream's, for a graph in which :func:`is_static` holds; what it works out is kept."""

    def simplify(self, expr: sympy.Expr) -> sympy.Expr:
        """As upstream."""
        return _simplified(expr)

    def _simplify_with_ranges(
        self, expr: sympy.Expr, var_ranges: Mapping[sympy.Symbol, sympy.Expr]
    ) -> sympy.Expr:
        return _simplified_with_ranges(expr, tuple(var_ranges.items()))

    def _stride_vars(
        self,
        index: sympy.Expr,
        vars: Sequence[sympy.Symbol],
        support_vars: Sequence[sympy.Symbol],
    ) -> list[sympy.Expr]:
        return list(_strides(index, tuple(vars), tuple(support_vars)))


@functools.cache
def _upstreams() -> StaticSizes:
    """One that knows of no graph: what it works out holds in each that is static."""
    return StaticSizes(ShapeEnv())


@functools.lru_cache(_KEPT, typed=True)
def _simplified(expr: sympy.Expr) -> sympy.Expr:
    return SizeVarAllocator.simplify(_upstreams(), expr)


@functools.lru_cache(_KEPT, typed=True)
def _simplified_with_ranges(
    expr: sympy.Expr, ranges: tuple[tuple[sympy.Symbol, sympy.Expr], ...]
) -> sympy.Expr:
    return SizeVarAllocator._simplify_with_ranges(_upstreams(), expr, dict(ranges))


@functools.lru_cache(_KEPT, typed=True)
def _strides(index: sympy.Expr, *variables: Any) -> tuple[sympy.Expr, ...]:
    return tuple(SizeVarAllocator._stride_vars(_upstreams(), index, *variables))
