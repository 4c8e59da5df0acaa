"""Captures the post-grad graphs of a model as ``torch.compile`` would make them, on no memory.

The model is traced on fake CPU tensors through Dynamo, AOTAutograd and the joint-graph
passes; then its graphs are moved to the planned device and go through the post-grad passes
there.  What this changes against a trace on a real GPU: operators that are chosen by device
before the joint graph (scaled-dot-product attention becomes the CPU flash operator, a few
decompositions), and joint-graph passes that act on GPU tensors only (matmul padding).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch._dynamo
from functorch.compile import make_boxed_func
from torch._functorch import config as functorch_config
from torch._inductor import compile_fx as inductor_compile
from torch._inductor import config
from torch._inductor.fx_passes.post_grad import view_to_reshape
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.fx.node import map_aggregate
from torch.utils import _pytree as pytree

from ..core.devices import CPU, Device
from ..errors import CaptureError, MaterializeError, brief
from ..events import log
from .narrow import hold_options
from .trial import PostGrad, copy_graph
from .virtual_gpu import planned_device, torch_device

__all__ = ["capture", "fake_mode"]

# Constants of at most this many elements are written into the kernels by Inductor, which
# needs their values; larger ones are only read, like inputs.
_INLINED_CONSTANT = 8


def fake_mode() -> FakeTensorMode:
    """A mode for building and tracing a model without memory."""
    return FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())


def capture(
    model: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    device: Device,
    mode: FakeTensorMode,
    tracing: str = "dynamo",
) -> list[PostGrad]:
    """The inference graphs of ``model(*args, **kwargs)``, one for each Dynamo graph.

    ``tracing`` is ``dynamo`` for the whole pipeline of ``torch.compile``, or ``make_fx`` to
    go straight to a post-grad graph: one graph, no joint-graph and no post-grad passes.

    Raises:
        CaptureError: the model cannot be traced; the cause is chained.
    """
    trace = _trace_make_fx if tracing == "make_fx" else _trace_dynamo
    try:
        with mode, torch.no_grad():
            graphs = trace(model, args, kwargs)
        if tracing == "make_fx":
            moved = [_move(graph, torch_device(device)) for graph in graphs]
        else:
            moved = [_on_device(graph, device) for graph in graphs]
    except MaterializeError:
        raise
    except Exception as error:
        raise CaptureError(
            f"the model was built but could not be traced ({tracing}) on fake tensors: "
            f"{brief(error)}. Check that `torch.compile(model)` accepts it, "
            "and that it does not look at values of tensors."
        ) from error
    if not moved:
        raise CaptureError("the model was traced, but it has no graph for Inductor to compile")
    return moved


def _trace_dynamo(
    model: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> list[PostGrad]:
    graphs: list[PostGrad] = []

    def keep(module: torch.fx.GraphModule, inputs: Sequence[Any], **how: Any) -> Any:
        graphs.append(
            PostGrad(module, tuple(inputs), _mode_of(module), how.get("is_inference", False))
        )
        return make_boxed_func(module.forward)

    def backend(module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
        return inductor_compile.compile_fx(module, inputs, inner_compile=keep)

    # Casts that a plan could use are kept in; every other policy folds them as upstream does.
    held = hold_options("capture", partial(getattr, config))
    with (
        _fresh_dynamo(),
        functorch_config.patch(enable_autograd_cache=False),
        config.patch(held),
    ):
        torch.compile(model, backend=backend)(*args, **kwargs)
    # Dynamo also hands over graphs without any operator (shape arithmetic between breaks).
    return [g for g in graphs if any(n.op == "call_function" for n in g.module.graph.nodes)]


@contextlib.contextmanager
def _fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    try:
        yield
    finally:
        torch._dynamo.reset()


def _mode_of(module: torch.fx.GraphModule) -> Any:
    """The fake mode that the graph's values belong to: Dynamo makes its own."""
    for node in module.graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        if isinstance(value, torch._subclasses.FakeTensor):
            return value.fake_mode
    raise CaptureError("a graph without tensor inputs cannot be planned: nothing has a size")


def _trace_make_fx(
    model: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> list[PostGrad]:
    state = dict(model.state_dict(keep_vars=True)) if isinstance(model, torch.nn.Module) else {}
    leaves, spec = pytree.tree_flatten((state, list(args), kwargs))

    def flat(*values: Any) -> list[Any]:
        held, positional, named = pytree.tree_unflatten(list(values), spec)
        if isinstance(model, torch.nn.Module):
            result = torch.func.functional_call(model, held, tuple(positional), named)
        else:
            result = model(*positional, **named)
        return pytree.tree_leaves(result)

    table = inductor_compile.select_decomp_table()
    module = make_fx(flat, decomposition_table=table)(*leaves)
    inputs = [node.meta["val"] for node in module.graph.find_nodes(op="placeholder")]
    return [PostGrad(module, tuple(inputs), _mode_of(module))]


def _move(graph: PostGrad, device: torch.device) -> PostGrad:
    """Puts every tensor, input and device argument of a graph on ``device``, in place."""
    module, mode = graph.module, graph.fake_mode

    def moved(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        with mode:
            return torch.empty_strided(
                value.size(), value.stride(), dtype=value.dtype, device=device
            )

    def redirected(argument: Any) -> Any:
        return device if isinstance(argument, torch.device) else argument

    _constants_to_inputs(module, mode)
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


def _constants_to_inputs(module: torch.fx.GraphModule, mode: FakeTensorMode) -> None:
    """Turns large tensor constants into inputs: the same traffic, and they can be fake."""
    for node in module.graph.find_nodes(op="get_attr"):
        value = module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        if not isinstance(value, torch.Tensor) or value.numel() <= _INLINED_CONSTANT:
            continue
        first = next(iter(module.graph.nodes))
        with module.graph.inserting_before(first):
            placeholder = module.graph.placeholder(f"constant_{node.name}")
        is_fake = isinstance(value, torch._subclasses.FakeTensor)
        placeholder.meta["val"] = value if is_fake else mode.from_tensor(value)
        node.replace_all_uses_with(placeholder)
        module.graph.erase_node(node)


def _on_device(graph: PostGrad, device: Device) -> PostGrad:
    """The post-grad graph on ``device``: moved first, because some passes ask for the device.

    A torch built without CUDA cannot run every pass on fake CUDA tensors (re-inplacing of
    slices, say); such a graph goes through the passes on the CPU and is moved afterwards.
    """
    copied = replace(graph, module=copy_graph(graph.module))
    try:
        return _post_grad(_move(copied, torch_device(device)), device)
    except Exception as error:
        if not device.is_gpu:
            raise
        log.info("post-grad passes ran on CPU tensors, before the move: %s", error)
        return _move(_post_grad(graph, CPU), torch_device(device))


def _post_grad(graph: PostGrad, device: Device) -> PostGrad:
    """Runs Inductor's post-grad passes, and those of others that are set in its config."""
    view_to_reshape(graph.module)
    inductor_compile.record_original_output_strides(graph.module)
    with planned_device(device), V.set_fake_mode(graph.fake_mode), torch.no_grad():
        inductor_compile._recursive_post_grad_passes(graph.module, is_inference=graph.is_inference)
    return graph
