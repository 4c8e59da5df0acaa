"""Operators that Inductor computes in one step where eager rounds between two.

*Additions*: Inductor makes ``addmm`` of ``a @ b + c``.  Eager rounds the product to bf16 and then
adds; the one kernel adds to the product in fp32.  Where a program wrote ``addmm`` itself, as a
linear layer with a bias does, eager runs the same kernel.

*Powers*: eager's kernels compute ``x ** 3`` as ``x * x * x`` and ``x ** -2`` as ``1 / (x * x)``,
where a product of two bf16 or fp16 numbers is rounded to one; Inductor multiplies in fp32
(``pow_tensor_scalar_optimized_kernel`` in ATen; GPT-2's GELU has a cube).  For fp16 on a CPU eager
multiplies in fp32, too.
"""

from __future__ import annotations

from typing import Any

import torch

from .program_order import has_place

__all__ = ["take_steps_apart"]

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


def take_steps_apart(graph: torch.fx.Graph) -> int:
    """Makes two nodes of each operator that eager computes in two steps; of how many it did."""
    return _additions(graph) + _powers(graph)


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
        if node.args[1] in _POWERS and _multiplies_narrow(node.meta.get("val"))
    ]
    for node in powers:
        base, exponent = node.args
        last, takes_base = _POWERS[exponent]
        _apart(node, (_MUL, base, base), (last, base) if takes_base else (last,))
    return len(powers)


def _apart(node: torch.fx.Node, first: tuple[Any, ...], second: tuple[Any, ...]) -> None:
    """Puts two operators in the place of a node; the first's result is the second's first operand.

    Each is an operator and its operands.
    """
    graph = node.graph
    with graph.inserting_before(node):
        between = graph.call_function(first[0], first[1:])
        last = graph.call_function(second[0], (between, *second[1:]))
    last.meta = dict(node.meta)
    between.meta = {**node.meta, "val": _value(*first)}
    between.meta.pop("tensor_meta", None)
    node.replace_all_uses_with(last)
    graph.erase_node(node)


def _is_made(node: torch.fx.Node) -> bool:
    return not has_place(node) and len(node.args) == 3 and not node.kwargs


def _multiplies_narrow(value: object) -> bool:
    """Whether eager's products of two such numbers are rounded to their own type."""
    if not isinstance(value, torch.Tensor):
        return False
    on_gpu = value.device.type != "cpu"
    return value.dtype == torch.bfloat16 or (value.dtype == torch.float16 and on_gpu)


def _value(operator: torch._ops.OpOverload, *operands: torch.fx.Node) -> torch.Tensor:
    values = [one.meta["val"] for one in operands]
    with values[0].fake_mode:
        value: torch.Tensor = operator(*values)
    return value
