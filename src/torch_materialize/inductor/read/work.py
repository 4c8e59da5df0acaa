"""What computing costs, and what it depends on: of a value, and of a kernel."""

from __future__ import annotations

import math
from typing import Any

import torch

from .storage import elements, points

__all__ = ["is_delicate", "kernel_operations", "weight"]

# Names are those of Inductor's operations and of ATen's operators alike.  A GPU's special
# function units do a quarter of the rate; vectorized CPU code takes ten to forty steps.
_HEAVY = 8
# A GPU has no division of integers: a constant takes a multiplication with as much around it,
# unless it is a power of two.
_SHIFT = 2
# Elements that a GPU's thread reads at once: 16 bytes of 16-bit numbers.
_VECTOR = 8
_HEAVY_OPERATIONS = frozenset(
    {
        "acos",
        "acosh",
        "asin",
        "asinh",
        "atan",
        "atan2",
        "atanh",
        "cos",
        "cosh",
        "digamma",
        "erf",
        "erfc",
        "erfinv",
        "exp",
        "exp2",
        "expm1",
        "gelu",
        "igamma",
        "igammac",
        "lgamma",
        "log",
        "log10",
        "log1p",
        "log2",
        "logit",
        "pow",
        "rand",
        "randn",
        "sigmoid",
        "silu",
        "sin",
        "sinh",
        "softplus",
        "tan",
        "tanh",
    }
)
# With what its special function units begin and more instructions mend; a CPU has one for each.
_HEAVY_ON_GPU = _HEAVY_OPERATIONS | {"reciprocal", "rsqrt", "sqrt", "truediv"}
# Operations of a loop body that are no arithmetic.
_FREE = frozenset(
    ["load", "store", "store_reduction", "constant", "index_expr", "get_index", "to_dtype"]
)


def weight(node: torch.fx.Node) -> int:
    """Operations per element of an FX node, roughly."""
    name = str(node.target).split(".")
    return _HEAVY if len(name) > 1 and name[1] in _HEAVY_OPERATIONS else 1


def kernel_operations(kernel: Any) -> int:
    """Operations of a fused kernel, counted in the bodies of its loops.

    Unlike bytes these depend on the index: a value that is needed at two places of a rolled
    tensor is computed twice, and a GPU's kernel finds out for each element where it is.
    """
    total = 0
    for member in kernel.get_nodes():
        on_gpu = member.get_device().type != "cpu"
        heavy = _HEAVY_ON_GPU if on_gpu else _HEAVY_OPERATIONS
        each = sum(
            count * (_HEAVY if name in heavy else 1)
            for name, count in member._body.op_counts.items()
            if name not in _FREE
        )
        total += points(member) * (each + (_addressing(member) if on_gpu else 0))
    return total


def _addressing(member: Any) -> int:
    """Operations that it takes a Triton kernel to reach one element.

    It counts rows through, and what each of them reduces, and finds a place in either by dividing
    by the size of each dimension but the first; loops of C++ are nested.  Innermost dimensions
    whose size holds no whole vectors are read and written in pieces.
    """
    ranges = [[elements(size) for size in extents] for extents in member.get_ranges()]
    nested = [[size for size in sizes if size > 1] for sizes in ranges]
    divisors = [size for sizes in nested for size in sizes[1:]]
    divisions = sum(_HEAVY if size & (size - 1) else _SHIFT for size in divisors)
    dimensions = [size for sizes in nested for size in sizes]
    innermost = dimensions[-1] if len(dimensions) > 1 else _VECTOR
    pieces = _VECTOR // math.gcd(innermost, _VECTOR)
    counts = member._body.op_counts
    return divisions + pieces * (counts["load"] + counts["store"])


def is_delicate(kernel: Any) -> bool:
    """Whether a kernel's numbers depend on what else is in it.

    A reduction adds up in an order that follows from the kernel's block sizes, on a CPU from its
    vector width, and both follow from the dtypes and the number of what it loads.  The C++
    backend has vector code for functions such as exp that differs from the scalar one in the
    last digit, and chooses between them for a whole loop.
    """
    members = kernel.get_nodes()
    if any(member.is_reduction() for member in members):
        return True
    on_cpu = any(member.get_device().type == "cpu" for member in members)
    return on_cpu and any(_HEAVY_OPERATIONS & set(m._body.op_counts) for m in members)
