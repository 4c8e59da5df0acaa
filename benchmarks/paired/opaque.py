"""Matmuls, convolutions, attention and the like out of the way: fused kernels are timed alone.

A post-grad pass puts one cheap operator in the place of each: after Inductor's own passes, so
that what those fold into a matmul stays folded.  The operator takes the same inputs, which must
therefore be written, and returns a buffer of the same size and strides.  On a GPU it launches
nothing.  On a CPU it fills the buffer (untouched pages would be read from nowhere) and says how
long that took, to be subtracted.
"""

from __future__ import annotations

import operator
import time
from typing import Any

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass

NAMESPACE = "torch_materialize_bench"
_SCHEMA = "(Tensor[] reads, int[] size, int[] stride, ScalarType dtype, Device device) -> Tensor"
_REPLACED = frozenset(
    {
        "aten._scaled_dot_product_cudnn_attention",
        "aten._scaled_dot_product_cudnn_attention_backward",
        "aten._scaled_dot_product_efficient_attention",
        "aten._scaled_dot_product_efficient_attention_backward",
        "aten._scaled_dot_product_flash_attention",
        "aten._scaled_dot_product_flash_attention_backward",
        "aten._scaled_dot_product_flash_attention_for_cpu",
        "aten._scaled_dot_product_flash_attention_for_cpu_backward",
        "aten.addmm",
        "aten.avg_pool2d",
        "aten.baddbmm",
        "aten.bmm",
        "aten.convolution",
        "aten.convolution_backward",
        "aten.mm",
        "aten.topk",
    }
)

_library = torch.library.Library(NAMESPACE, "FRAGMENT")
_library.define("opaque" + _SCHEMA, tags=(torch.Tag.flexible_layout,))


class Spent:
    """Seconds that the stand-ins took since the last reset, on a CPU."""

    seconds = 0.0


def _on_cpu(
    reads: list[torch.Tensor], size: Any, stride: Any, dtype: torch.dtype, device: Any
) -> torch.Tensor:
    start = time.perf_counter()
    result = torch.empty_strided(size, stride, dtype=dtype, device=device).fill_(0.5)
    Spent.seconds += time.perf_counter() - start
    return result


def _empty(
    reads: list[torch.Tensor], size: Any, stride: Any, dtype: torch.dtype, device: Any
) -> torch.Tensor:
    return torch.empty_strided(size, stride, dtype=dtype, device=device)


_library.impl("opaque", _on_cpu, "CPU")
_library.impl("opaque", _empty, "CUDA")
torch.library.register_fake(f"{NAMESPACE}::opaque", _empty, lib=_library)


class Opaque(CustomGraphPass):
    """Replaces what is not Inductor's to fuse; goes into ``post_grad_custom_post_pass``."""

    def __call__(self, graph: torch.fx.Graph) -> None:
        for node in list(graph.nodes):
            if node.op == "call_function" and _is_replaced(node.target):
                _replace(graph, node)
        graph.lint()

    def uuid(self) -> str:
        # What is kept from another run must have had the same stand-ins.
        return f"torch-materialize-bench-opaque-2 {sorted(_REPLACED)}"


def _is_replaced(target: Any) -> bool:
    if not isinstance(target, torch._ops.OpOverload):
        return False
    name = str(target).rsplit(".", 1)[0]
    return name in _REPLACED or (target.namespace == NAMESPACE and name != f"{NAMESPACE}.opaque")


def _replace(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    results = [u for u in node.users if u.target is operator.getitem] or [node]
    reads = [x for x in node.all_input_nodes if isinstance(x.meta.get("val"), torch.Tensor)]
    for result in results:
        value = result.meta["val"]
        if not isinstance(value, torch.Tensor):  # a seed or a size that only a backward reads
            continue
        with graph.inserting_before(node):
            layout = list(value.shape), list(value.stride()), value.dtype, value.device
            stand_in = graph.call_function(torch.ops.torch_materialize_bench.opaque.default)
            stand_in.args = (reads, *layout)
        stand_in.meta = dict(result.meta)
        result.replace_all_uses_with(stand_in)
    for result in results:
        if result is not node and not result.users:
            graph.erase_node(result)
    if not node.users:
        graph.erase_node(node)
