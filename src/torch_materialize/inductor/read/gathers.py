"""How many elements one kernel can touch through indices that it loads.

The rule: *loads of one buffer through equal indices share their rows, and a row counts once for
each element that some load can touch*.  A row is what one value of the index selects; loops that
neither the index nor what is added to it varies over read the same again (the heads that share a
row of rotary angles), loads under complementary masks divide a row between them (the halves of a
rotation).  What indices hold is unknown, so that two loads through different indices, or through
an index that varies over the same loop as what is added to it, add up.  This is an upper bound of
the distinct elements, as everywhere: caches serve what one kernel reads again.

A loop's body is run once with values that are numbered (:mod:`.tracer`).  A body that is too
large for that, by counts and not by a clock, is not run: each of its accesses counts as elements
of its own, which is an upper bound as well.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import sympy
from torch._inductor.loop_body import MemoryUsageType
from torch._inductor.virtualized import V

from .columns import Columns, Touched
from .storage import elements, points
from .tracer import UNKNOWN, Tracer

__all__ = ["Gathers"]

# Bodies beyond these are not run.  Upstream unrolls a pool's window into some 60 operations and
# two indices for each of its places; a body of 100 places stays far below.
_MOST_OPERATIONS = 50_000
# Each index that is loaded is put into every expression of its body (`LoopBody.replace_indirect`).
_MOST_REPLACED = 200_000
# Terms of one expression once its products are multiplied out, and its operands before.
_MOST_TERMS = 2_000


class Gathers(Touched):
    """What the loops of one kernel read through indices: :meth:`add` each, then read the sums."""

    def add(self, member: Any) -> None:
        """Adds the loads of a scheduled node."""
        body = member._body
        if _is_too_large(body):
            for place, name in enumerate(_gathering(body)):
                key = "apart", member.get_name(), place
                self.note(name, key, 1, Columns(0, 0, 0, points(member), key))
            return
        loops = {var: (0, elements(size) - 1) for var, size in body.var_ranges.items()}
        with V.set_ops_handler(Tracer(self, loops)):
            body(list(loops), allow_same_symbol_in_index=True)


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
        counts[node] = min(max(count, 1), UNKNOWN)
    return counts[expression]
