"""Small questions about Inductor's IR, for the planner's reader."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch._inductor import ir
from torch._inductor.utils import get_dtype_size, sympy_product
from torch._inductor.virtualized import V

__all__ = [
    "buffer_name",
    "buffer_reads",
    "buffer_size",
    "copied_over",
    "elements",
    "is_gather",
    "mutates",
    "points",
    "reads_nothing",
    "storage_of",
]

_GATHERS = frozenset(
    {"aten.embedding", "aten.index", "aten._unsafe_index", "aten.gather", "aten.index_select"}
)


def storage_of(result: Any) -> ir.StorageBox | None:
    """The StorageBox under a lowering's result, through boxes and views."""
    while isinstance(result, ir.TensorBox | ir.BaseView):
        result = result.data
    return result if isinstance(result, ir.StorageBox) else None


def buffer_name(box: ir.StorageBox) -> str | None:
    """Name of the buffer in a box, None where it was never realized."""
    try:
        return box.data.get_name() if ir.IRNode.is_realized_node(box.data) else None
    except (NotImplementedError, AttributeError):
        return None


def buffer_reads(box: ir.StorageBox) -> set[str]:
    """Buffers that computing what is in a box reads."""
    data = box.data
    if isinstance(data, ir.ComputedBuffer):
        return {dep.name for dep in data.get_read_writes().reads}
    if isinstance(data, ir.Pointwise | ir.Reduction):
        return set(data.inner_fn_opcount().read_buffers)
    return set()


def buffer_size(name: str) -> tuple[int, int]:
    """Elements and bytes; zero for the tuple that a multi-output kernel returns."""
    try:
        numel = elements(V.graph.get_numel(name))
        return numel, numel * get_dtype_size(V.graph.get_dtype(name))
    except (NotImplementedError, AttributeError):
        return 0, 0


def elements(expression: Any) -> int:
    """A size under Inductor's hints; 0 where it is unbacked."""
    if isinstance(expression, int):
        return expression
    if isinstance(expression, torch.SymInt):
        expression = expression.node.expr
    return int(V.graph.sizevars.optimization_hint(expression, fallback=0))


def points(member: Any) -> int:
    """How often the loops of a kernel's member run their body, a reduction's included."""
    return math.prod(elements(sympy_product(extents)) for extents in member.get_ranges())


def reads_nothing(box: ir.StorageBox) -> bool:
    """Whether the value is made from indices and constants alone (iota, full)."""
    data = box.data
    if isinstance(data, ir.ComputedBuffer) and not isinstance(data.data, ir.Pointwise):
        return False
    return isinstance(data, ir.ComputedBuffer | ir.Pointwise) and not buffer_reads(box)


def mutates(node: torch.fx.Node) -> bool:
    """Whether an FX node writes into one of its arguments."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def is_gather(node: torch.fx.Node) -> bool:
    """Whether an FX node reads its first argument at indices that a tensor holds."""
    return str(node.target).rsplit(".", 1)[0] in _GATHERS


def copied_over(module: torch.fx.GraphModule) -> frozenset[str]:
    """Nodes that are written over a tensor: marked, they would get a buffer of their own first."""
    nodes = module.graph.find_nodes(op="call_function", target=torch.ops.aten.copy_.default)
    return frozenset(node.args[1].name for node in nodes if isinstance(node.args[1], torch.fx.Node))
