"""Moves captured graphs to the planned device, where their post-grad passes run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch._inductor import lowering
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.node import map_aggregate
from torch.utils import _pytree as pytree

from ...core.devices import CPU, Device
from ...events import log
from ..fx.eager_kernels import round_made
from ..fx.eager_steps import round_within
from ..fx.post_grad import INLINED_CONSTANT, PostGrad, copy_graph
from ..hooks.cast_passes import rounds_as_eager
from ..lower.virtual_gpu import planned_device, torch_device
from ..partition.measured import post_grad

__all__ = ["constants_to_inputs", "move", "on_device"]

_aten = torch.ops.aten
_CPU = torch.device("cpu")
# What is looked up in a constant is looked up in memory; a copy of it is the constant.
_SEARCHES = (_aten.bucketize.Tensor, _aten.searchsorted.Tensor)
_COPIES = (_aten.lift_fresh_copy.default, _aten.clone.default, _aten._to_copy.default)


def on_device(graph: PostGrad, device: Device) -> PostGrad:
    """The post-grad graph on ``device``: moved first, because some passes look at the device.

    A torch built without CUDA cannot run every pass on fake CUDA tensors (re-inplacing of
    slices, say); such a graph goes through the passes on the CPU and is moved afterwards.
    """
    copied = replace(graph, module=copy_graph(graph.module))
    try:
        found = _post_grad(move(copied, torch_device(device)), device)
    except Exception as error:
        if not device.is_gpu:
            raise
        log.info("post-grad passes ran on CPU tensors, before the move: %s", error)
        found = move(_post_grad(graph, CPU), torch_device(device))
    # What eager rounds goes by the device, too.
    graph = found.module.graph
    if rounds_as_eager() and round_within(graph) + round_made(graph):
        found.module.recompile()
    return found


def _post_grad(graph: PostGrad, device: Device) -> PostGrad:
    """Runs Inductor's post-grad passes, and those that a program set in its config."""
    with planned_device(device):
        return post_grad(graph)


def move(graph: PostGrad, device: torch.device) -> PostGrad:
    """Puts every tensor, input and device argument of a graph on ``device``, in place."""
    module, mode = graph.module, graph.fake_mode
    storages: dict[int, Any] = {}

    def moved(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        with mode:
            there = torch.empty_strided(
                value.size(), value.stride(), dtype=value.dtype, device=device
            )
            # What shared memory shares it still: what looks for views goes by that.
            before = value.untyped_storage()._cdata
            if before in storages:
                there.set_(storages[before], value.storage_offset(), value.size(), value.stride())
            storages.setdefault(before, there.untyped_storage())
            return there

    def redirected(argument: Any) -> Any:
        return device if isinstance(argument, torch.device) else argument

    constants_to_inputs(module, mode, device)
    for part in module.modules():
        if not isinstance(part, torch.fx.GraphModule):
            continue
        for node in part.graph.nodes:
            if "val" in node.meta and node.op != "get_attr":
                node.meta["val"] = pytree.tree_map(moved, node.meta["val"])
            node.args = map_aggregate(node.args, redirected)
            node.kwargs = map_aggregate(node.kwargs, redirected)
        part.recompile()
    inputs = [node.meta.get("val") for node in module.graph.find_nodes(op="placeholder")]
    return PostGrad(module, tuple(inputs), mode, graph.is_inference, graph.is_backward)


def constants_to_inputs(
    module: torch.fx.GraphModule, mode: FakeTensorMode, device: torch.device = _CPU
) -> None:
    """Turns tensor constants that are read into inputs: the same traffic, and they can be fake.

    Small ones stay, whose numbers Inductor writes into the code; on a GPU but where they are read.
    """
    for node in module.graph.find_nodes(op="get_attr"):
        value = module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        if not isinstance(value, torch.Tensor):
            continue
        is_fake = isinstance(value, torch._subclasses.FakeTensor)
        is_read = value.numel() > INLINED_CONSTANT or (device.type != "cpu" and _is_read(node))
        if not is_read and not is_fake:
            continue
        first = next(iter(module.graph.nodes))
        with module.graph.inserting_before(first):
            placeholder = module.graph.placeholder(f"constant_{node.name}")
        placeholder.meta["val"] = value if is_fake else mode.from_tensor(value)
        node.replace_all_uses_with(placeholder)
        module.graph.erase_node(node)


def _is_read(constant: torch.fx.Node) -> bool:
    """Whether a small constant is read from the device's memory, too."""
    for user in constant.users:
        if user.target in _COPIES:
            if _is_read(user):
                return True
        elif user.op == "call_function" and isinstance(user.target, torch._ops.OpOverload):
            is_extern = user.target in lowering.fallbacks or user.target not in lowering.lowerings
            if is_extern or user.target in _SEARCHES:
                return True
    return False
