"""What computing costs, and what it depends on: of a value, and of a kernel that a dry run made."""

from __future__ import annotations

from typing import Any

import torch

from .storage import points

__all__ = ["is_delicate", "kernel_operations", "weight"]

# Names are those of Inductor's operations and of ATen's operators alike.  A GPU's special
# function units do a quarter of the rate; vectorized CPU code takes ten to forty steps.
_HEAVY = 8
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
    tensor is computed twice.
    """
    total = 0
    for member in kernel.get_nodes():
        counts = member._body.op_counts
        total += points(member) * sum(
            count * (_HEAVY if name in _HEAVY_OPERATIONS else 1)
            for name, count in counts.items()
            if name not in _FREE
        )
    return total


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
