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
import math
from functools import partial
from typing import Any

import sympy
import torch
from torch._inductor.index_propagation import SymPyOps, TypedExpr
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils import _pytree as pytree

from .program_order import has_place

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
_NARROW = frozenset({torch.bfloat16, torch.float16})
# Where eager's kernels round a number to the type of the tensors: on any device, and on a CPU.
_ROUNDS = frozenset(
    getattr(_aten, name)
    for name in ("fmod", "remainder", "pow", "gt", "ge", "lt", "le", "eq", "ne")
)
_ROUNDS_ON_CPU = frozenset({_aten.add, _aten.sub})
# Where they do not.
_TAKES_ALL = frozenset({_aten.mul, _aten.div})
_TAKES_NUMBERS = _ROUNDS | _ROUNDS_ON_CPU | _TAKES_ALL
_CAST = torch.ops.prims.convert_element_type.default
# What upstream's emulation leaves on each operator that eager runs, and on none that one becomes.
_WRITTEN = "low_precision_pointwise_barrier"


def round_within(graph: torch.fx.Graph) -> int:
    """Has a graph round within operators as eager does; of how many it changed."""
    return _additions(graph) + _powers(graph) + sum(map(_numbers, list(graph.nodes)))


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
        if node.args[1] in _POWERS and _WRITTEN in node.meta and _multiplies_narrow(node.args[0])
    ]
    for node in powers:
        base, exponent = node.args
        last, takes_base = _POWERS[exponent]
        _apart(node, (_MUL, base, base), (last, base) if takes_base else (last,))
    return len(powers)


def _numbers(node: torch.fx.Node) -> bool:
    """Has an operator take its numbers as eager's kernel does; whether that changed it."""
    operator = getattr(node.target, "overloadpacket", None)
    if operator not in _TAKES_NUMBERS or _WRITTEN not in node.meta:
        return False
    values = [one.meta.get("val") for one in node.all_input_nodes]
    dtypes = {value.dtype for value in values if isinstance(value, FakeTensor)}
    if not all(isinstance(value, FakeTensor) for value in values) or len(dtypes) != 1:
        return False
    (dtype,) = dtypes
    on_cpu = all(value.is_cpu for value in values)
    rounds = operator in _ROUNDS or (operator in _ROUNDS_ON_CPU and on_cpu)
    is_right = not rounds and not _rounds_all_numbers()
    if is_right or dtype not in _NARROW or "rounding_mode" in node.kwargs:
        return False
    given = node.args, node.kwargs
    rounded = pytree.tree_map(partial(_rounded, dtype), given)
    if rounds:
        node.args, node.kwargs = rounded
        return bool(given != rounded)
    if operator is _aten.div:  # a quotient may be a product with the reciprocal
        inverse = [1 / x for x in pytree.tree_leaves(given) if _is_number(x) and x]
        given, rounded = (given, inverse), (rounded, [_rounded(dtype, x) for x in inverse])
    if given == rounded or node.meta["val"].dtype != dtype:
        return False
    _widen(node, dtype)
    return True


@functools.cache
def _rounds_all_numbers() -> bool:
    """Whether upstream's emulation of casts rounds numbers, too, since it does not fold them."""
    number = TypedExpr(sympy.Float(0.1), torch.float32)
    cast = SymPyOps.to_dtype(number, torch.bfloat16, use_compute_types=False)
    return cast is NotImplemented


def _is_number(one: Any) -> bool:
    return isinstance(one, int | float) and not isinstance(one, bool)


def _rounded(dtype: torch.dtype, one: Any) -> Any:
    """A Python number as a tensor of this type holds it; anything else as it is."""
    if not _is_number(one):
        return one
    with unset_fake_temporarily():
        held = torch.tensor(float(one), dtype=dtype).item()
    return one if held == one or math.isnan(held) else held


def _widen(node: torch.fx.Node, dtype: torch.dtype) -> None:
    """Computes an operator in fp32, and rounds what comes of it."""
    graph, narrow = node.graph, node.meta["val"]
    values = {one: _value(_CAST, one, torch.float32) for one in node.all_input_nodes}
    with narrow.fake_mode:
        wide = narrow.to(torch.float32)
    for operand, value in values.items():
        with graph.inserting_before(node):
            cast = graph.call_function(_CAST, (operand, torch.float32))
        cast.meta = _meta(node, value)
        node.replace_input_with(operand, cast)
    with graph.inserting_after(node):
        last = graph.call_function(_CAST, (node, dtype))
    last.meta = dict(node.meta)
    node.meta = _meta(node, wide)
    node.replace_all_uses_with(last, delete_user_cb=lambda user: user is not last)


def _apart(node: torch.fx.Node, first: tuple[Any, ...], second: tuple[Any, ...]) -> None:
    """Puts two operators in the place of a node; the first's result is the second's first operand.

    Each is an operator and its operands.
    """
    graph, value = node.graph, _value(*first)
    with graph.inserting_before(node):
        between = graph.call_function(first[0], first[1:])
        last = graph.call_function(second[0], (between, *second[1:]))
    last.meta = dict(node.meta)
    between.meta = _meta(node, value)
    node.replace_all_uses_with(last)
    graph.erase_node(node)


def _meta(node: torch.fx.Node, value: torch.Tensor) -> dict[str, Any]:
    """What is said of ``node``, for a part of it with another value."""
    return {**{k: v for k, v in node.meta.items() if k != "tensor_meta"}, "val": value}


def _is_made(node: torch.fx.Node) -> bool:
    return not has_place(node) and len(node.args) == 3 and not node.kwargs


def _multiplies_narrow(base: Any) -> bool:
    """Whether eager's products of two such numbers are rounded to their own type."""
    value = base.meta.get("val")
    if not isinstance(value, FakeTensor):
        return False
    return value.dtype in _NARROW and not (value.dtype == torch.float16 and value.is_cpu)


def _value(operator: torch._ops.OpOverload, *operands: Any) -> torch.Tensor:
    values = [one.meta["val"] if isinstance(one, torch.fx.Node) else one for one in operands]
    with values[0].fake_mode:
        value: torch.Tensor = operator(*values)
    return value
