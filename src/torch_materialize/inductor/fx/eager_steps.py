"""What eager rounds within an operator and Inductor does not.

*Additions*: Inductor makes ``addmm`` of ``a @ b + c``.  Eager rounds the product to bf16 and then
adds; the one kernel adds to the product in fp32.  Where a program wrote ``addmm`` itself, as a
linear layer with a bias does, eager runs the same kernel.

*Powers*: eager's kernels compute ``x ** 3`` as ``x * x * x`` and ``x ** -2`` as ``1 / (x * x)``,
where a product of two bf16 or fp16 numbers is rounded to one; Inductor multiplies in fp32
(``pow_tensor_scalar_optimized_kernel`` in ATen; GPT-2's GELU has a cube).  For fp16 on a CPU eager
multiplies in fp32, too.

*Numbers*: a remainder by 0.1, a comparison with it and a power take what bf16 makes of 0.1; on a
CPU a sum and a difference do, too.  Products and quotients take all digits, and so do sums on
a GPU.  Measured on a CPU with torch 2.11 to 2.15; for GPUs as upstream's ``promote_constants`` of
2.15 has it, which rounds so by itself but for powers and ``fmod``, and as ATen's kernels for powers
do.  With its emulation of casts 2.15 rounds the numbers of products, too; these are written as what
they are: in fp32, and then rounded.

All of this is of operators that the program wrote: within a decomposition eager has one kernel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import sympy
import torch
from torch._inductor.index_propagation import SymPyOps, TypedExpr
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

from .eager_kernels import (
    WRITTEN,
    inserted,
    is_number,
    is_scalar,
    round_kernels,
    rounded_number,
    widened,
)
from .program_order import has_place
from .rounding import NARROW, is_narrow

__all__ = ["round_within"]

_aten = torch.ops.aten
_ADDMM = _aten.addmm.default
_MM = _aten.mm.default
_ADD = _aten.add.Tensor
_MUL = _aten.mul.Tensor
_POWER = _aten.pow.Tensor_Scalar
# Exponent -> what is computed of the rounded square and the number itself.
_POWERS: dict[Any, tuple[torch._ops.OpOverload, bool]] = {
    3: (_MUL, True),
    -2: (_aten.reciprocal.default, False),
}
# Where eager's kernels round a number to the type of the tensors: on any device, and on a CPU.
_ROUNDS = frozenset(
    getattr(_aten, name)
    for name in ("fmod", "remainder", "pow", "gt", "ge", "lt", "le", "eq", "ne")
)
_ROUNDS_ON_CPU = frozenset({_aten.add, _aten.sub})
# Where they do not.
_TAKES_ALL = frozenset({_aten.mul, _aten.div})
# What writes a number into a tensor.
_FILLS = frozenset(
    getattr(_aten, name) for name in ("full", "full_like", "new_full", "fill", "constant_pad_nd")
)
_TAKES_NUMBERS = _ROUNDS | _ROUNDS_ON_CPU | _TAKES_ALL


def round_within(graph: torch.fx.Graph) -> int:
    """Has a graph round within operators as eager does; of how many it changed."""
    decomposed = round_kernels(graph)
    changed = decomposed + _additions(graph) + _powers(graph)
    return changed + sum(_numbers(node) or _filled(node) for node in list(graph.nodes))


def _additions(graph: torch.fx.Graph) -> int:
    """Makes each ``addmm`` that a pass of upstream's made a matmul and an addition.

    Such a node has no place in the program (:mod:`.program_order`); in a graph whose order was
    not noted nothing is known of where nodes come from, and nothing is done.
    """
    made = [node for node in graph.find_nodes(op="call_function", target=_ADDMM) if _is_made(node)]
    if not made or not any(has_place(node) for node in graph.nodes):
        return 0
    for node in made:
        added, left, right = node.args
        _apart(node, (_MM, left, right), (_ADD, added))
    return len(made)


def _powers(graph: torch.fx.Graph) -> int:
    powers = [
        node
        for node in graph.find_nodes(op="call_function", target=_POWER)
        if node.args[1] in _POWERS and WRITTEN in node.meta and _multiplies_narrow(node.args[0])
    ]
    for node in powers:
        base, exponent = node.args
        last, takes_base = _POWERS[exponent]
        _apart(node, (_MUL, base, base), (last, base) if takes_base else (last,))
    return len(powers)


def _numbers(node: torch.fx.Node) -> bool:
    """Has an operator take its numbers as eager's kernel does; whether that changed it."""
    operator = getattr(node.target, "overloadpacket", None)
    if operator not in _TAKES_NUMBERS or WRITTEN not in node.meta:
        return False
    values = [one.meta.get("val") for one in node.all_input_nodes]
    values = [value for value in values if not isinstance(value, torch.SymInt | torch.SymFloat)]
    dtype = _common(values)
    if "rounding_mode" in node.kwargs or dtype not in NARROW:
        return False
    on_cpu = all(value.is_cpu for value in values)
    rounds = operator in _ROUNDS or (operator in _ROUNDS_ON_CPU and on_cpu)
    is_changed = _constants(node, dtype)
    is_scaled = node.kwargs.get("alpha", 1) != 1  # one kernel, of which Inductor rounds the product
    if rounds and not is_scaled:
        return _round_numbers(node, partial(rounded_number, dtype)) or is_changed
    if not is_scaled and not _takes_all(node, dtype, on_cpu):
        return is_changed
    widened(node, partial(rounded_number, dtype) if rounds else lambda one: one)
    return True


def _common(values: list[Any]) -> torch.dtype | None:
    """The type of an operator's tensors; of those without dimensions only where all are so."""
    if not all(isinstance(value, FakeTensor) for value in values):
        return None
    dtypes = {value.dtype for value in values if value.dim()} or {value.dtype for value in values}
    return dtypes.pop() if len(dtypes) == 1 else None


def _constants(node: torch.fx.Node, dtype: torch.dtype) -> bool:
    """Makes numbers of an operator's constants that are on a CPU, as eager does; whether any.

    Eager takes them with all digits where it would take a number's, if they come second.
    """
    if node.target.overloadpacket not in _ROUNDS_ON_CPU | _TAKES_ALL:
        return False
    found = {
        place: one.args[1]
        for place, one in enumerate(node.args[:2])
        if isinstance(one, torch.fx.Node) and _is_constant(one)
    }
    if not found or len(found) == len(node.all_input_nodes):
        return False
    if 0 in found and node.meta["val"].is_cpu:
        found[0] = rounded_number(dtype, found[0])
    node.args = tuple(found.get(place, one) for place, one in enumerate(node.args))
    return True


def _is_constant(node: torch.fx.Node) -> bool:
    if node.target is not _aten.full.default or node.args[0] or not is_number(node.args[1]):
        return False
    value = node.meta.get("val")
    return isinstance(value, FakeTensor) and value.is_cpu and value.dtype.is_floating_point


def _round_numbers(node: torch.fx.Node, how: Callable[[Any], Any]) -> bool:
    given = node.args, node.kwargs
    node.args, node.kwargs = pytree.tree_map(how, given)
    return bool(given != (node.args, node.kwargs))


def _takes_all(node: torch.fx.Node, dtype: torch.dtype, on_cpu: bool) -> bool:
    """Whether eager takes more digits of a number than Inductor would."""
    if node.meta["val"].dtype != dtype:
        return False
    if on_cpu and is_scalar(node.args[1]):
        return True
    numbers = [x for x in pytree.tree_leaves((node.args, node.kwargs)) if is_number(x)]
    if node.target.overloadpacket is _aten.div:
        numbers += [1 / x for x in numbers if x]  # it may become a product with the reciprocal
    return _rounds_all_numbers() and any(rounded_number(dtype, x) != x for x in numbers)


def _filled(node: torch.fx.Node) -> bool:
    """Has a tensor hold a number as its type has it, which Inductor's does in memory only."""
    if getattr(node.target, "overloadpacket", None) not in _FILLS or not is_narrow(node):
        return False
    dtype = node.meta["val"].dtype

    def held(one: Any) -> Any:
        return rounded_number(dtype, one) if isinstance(one, float) else one  # and no size

    return _round_numbers(node, held)


@functools.cache
def _rounds_all_numbers() -> bool:
    """Whether upstream's emulation of casts rounds numbers, too, since it does not fold them."""
    number = TypedExpr(sympy.Float(0.1), torch.float32)
    cast = SymPyOps.to_dtype(number, torch.bfloat16, use_compute_types=False)
    return cast is NotImplemented


def _apart(node: torch.fx.Node, first: tuple[Any, ...], second: tuple[Any, ...]) -> None:
    """Puts two operators in the place of a node; the first's result is the second's first operand.

    Each is an operator and its operands.
    """
    between = inserted(node, *first, rounds=WRITTEN in node.meta)
    with node.graph.inserting_before(node):
        last = node.graph.call_function(second[0], (between, *second[1:]))
    last.meta = dict(node.meta)
    node.replace_all_uses_with(last)
    node.graph.erase_node(node)


def _is_made(node: torch.fx.Node) -> bool:
    return not has_place(node) and len(node.args) == 3 and not node.kwargs


def _multiplies_narrow(base: Any) -> bool:
    """Whether eager's products of two such numbers are rounded to their own type."""
    if not is_narrow(base):
        return False
    value = base.meta["val"]
    return not (value.dtype == torch.float16 and value.is_cpu)
