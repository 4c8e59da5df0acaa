"""Captures the post-grad graphs of a corpus entry, training graphs too, on no device.

The inference path of the package's own capture, and what training needs beside it: backwards
are compiled with their forwards, and each forward reports the strides that Inductor gave to
what it saves, as a real compile does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch._dynamo
import torch._functorch.config as functorch_config
from torch._guards import TracingContext
from torch._inductor import compile_fx
from torch._inductor.fx_passes.post_grad import view_to_reshape
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.fx.node import map_aggregate
from torch.utils import _pytree as pytree

from torch_materialize.core.devices import DEVICES
from torch_materialize.core.policy import STOCK
from torch_materialize.inductor.trial import PostGrad, copy_graph, lowered
from torch_materialize.inductor.virtual_gpu import planned_device

from .registry import Entry
from .specs import Kind

PLANNED_DEVICE = torch.device("cuda", 0)


@dataclass(frozen=True)
class CapturedGraph:
    """A post-grad graph on the planned device; ``index`` is more than 0 after a graph break."""

    kind: Kind
    index: int
    graph: PostGrad


class _ShapeEnv(ShapeEnv):
    """Reads a boolean out of a tensor as False, in the code between two graphs of a graph break.

    Every input of the corpus is zero, and an unknown boolean would stop the model right there.
    """

    def create_unbacked_symbool(self) -> Any:
        return False


def capture(entry: Entry, device: torch.device = PLANNED_DEVICE) -> list[CapturedGraph]:
    """The graphs of `entry`'s mode: for training both forwards and backwards, in order of capture.

    Compiles under a fake mode with a backend that keeps each graph and runs it uncompiled.
    Graphs without a single call are left out: a graph break can leave such remainders.
    """
    keeper = _Keeper(device)
    fake_mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=_ShapeEnv())
    torch._dynamo.reset()
    with _captureable_aot(), torch.set_grad_enabled(entry.mode == "training"):
        module, _, _ = entry.build()
        with fake_mode:
            module.to_empty(device="cpu")
            args, kwargs = entry.arguments()
            torch.compile(module, backend=keeper.backend, dynamic=False)(*args, **kwargs)
    return keeper.captured


class _Keeper:
    """A backend that stands where Inductor would, and keeps what Inductor would get."""

    def __init__(self, device: torch.device) -> None:
        self.captured: list[CapturedGraph] = []
        self._device = device

    def backend(self, gm: GraphModule, example_inputs: list[Any]) -> Any:
        return compile_fx.compile_fx(gm, example_inputs, inner_compile=self._inner_compile)

    def _inner_compile(self, gm: GraphModule, example_inputs: list[Any], **kwargs: Any) -> Any:
        kind: Kind = "inference" if kwargs.get("is_inference") else "forward"
        if kwargs.get("is_backward"):
            kind = "backward"
        if any(n.op == "call_function" for n in gm.graph.nodes):
            with unset_fake_temporarily():
                captured = self._keep(copy_graph(gm), example_inputs, kind)
                if kind == "forward":
                    _report_strides(captured.graph)
        return _run_uncompiled(gm)

    def _keep(self, gm: GraphModule, example_inputs: list[Any], kind: Kind) -> CapturedGraph:
        fake_mode = _run_post_grad(gm, example_inputs, is_inference=kind == "inference")
        inputs = move_to_device(gm, fake_mode, self._device)
        index = sum(graph.kind == kind for graph in self.captured)
        graph = PostGrad(gm, tuple(inputs), fake_mode, kind == "inference", kind == "backward")
        self.captured.append(CapturedGraph(kind, index, graph))
        return self.captured[-1]


def _run_uncompiled(gm: GraphModule) -> Callable[[list[Any]], Any]:
    def run(args: list[Any]) -> Any:
        values = list(args)
        args.clear()
        return gm(*values)

    run._boxed_call = True  # type: ignore[attr-defined]
    return run


def _report_strides(graph: PostGrad) -> None:
    """Tells AOTAutograd how Inductor lays out a forward's outputs, as a real compile does.

    Without it the backward of a convolutional network starts from contiguous activations that a
    real forward saves as channels last, and pays for copies that no real backward makes.
    """
    context = TracingContext.try_get()
    if context is None or context.output_strides is None:
        return
    with planned_device(DEVICES["h200"]), lowered(graph, STOCK, GraphLowering) as lowering:
        context.output_strides.extend(_strides(output) for output in lowering.graph_outputs)


def _strides(output: Any) -> tuple[int, ...] | None:
    """The strides that Inductor gave to one output; None for what is no tensor."""
    data = getattr(output, "data", None)
    layout = getattr(output, "layout", None) or getattr(data, "layout", None)
    if not hasattr(layout, "stride"):
        return None
    hint = V.graph.sizevars.optimization_hint
    return tuple(int(hint(stride, fallback=1)) for stride in layout.stride)


@contextlib.contextmanager
def _captureable_aot() -> Iterator[None]:
    """Compile backwards with their forwards, so that no .backward() need run, and cache nothing."""
    with functorch_config.patch(enable_autograd_cache=False, force_non_lazy_backward_lowering=True):
        yield


def _run_post_grad(
    gm: GraphModule, example_inputs: list[Any], *, is_inference: bool
) -> FakeTensorMode:
    """The part of compile_fx between AOTAutograd's graph and GraphLowering; gives the graph's mode.

    The inputs are propagated anew: those of a backward have the strides its forward reported.
    """
    view_to_reshape(gm)
    with torch.no_grad():
        fake_mode = compile_fx.fake_tensor_prop(gm, example_inputs)
        compile_fx.record_original_output_strides(gm)
        with V.set_fake_mode(fake_mode):
            compile_fx._recursive_post_grad_passes(gm, is_inference=is_inference)
    return fake_mode


def move_to_device(gm: GraphModule, fake_mode: FakeTensorMode, device: torch.device) -> list[Any]:
    """Make `gm` a graph for `device`, in place, and return its example inputs.

    Tensors that tracing lifted into the module (`get_attr`) hold CPU values; they become inputs,
    because a fake tensor has no value that lowering could inline.
    """

    def moved(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        with fake_mode:
            return torch.empty_strided(
                value.shape, value.stride(), dtype=value.dtype, device=device
            )

    for part in gm.modules():
        if isinstance(part, GraphModule):
            _lift_constants(part)
            _retarget(part.graph, moved, device)
            part.recompile()
    return [n.meta["val"] for n in gm.graph.nodes if n.op == "placeholder"]


def _retarget(graph: Graph, moved: Callable[[Any], Any], device: torch.device) -> None:
    def on_device(value: Any) -> Any:
        return device if isinstance(value, torch.device) else value

    for node in graph.nodes:
        if "val" in node.meta:
            node.meta["val"] = pytree.tree_map(moved, node.meta["val"])
        node.args = map_aggregate(node.args, on_device)
        node.kwargs = map_aggregate(node.kwargs, on_device)


def _lift_constants(gm: GraphModule) -> None:
    """Turn each `get_attr` of a tensor into an additional, last, placeholder."""
    constants: dict[str, Node] = {}
    for node in gm.graph.find_nodes(op="get_attr"):
        value = pytree.tree_leaves(_attribute(gm, node.target))[0]
        if not isinstance(value, torch.Tensor):
            continue
        if node.target not in constants:
            first = next(n for n in gm.graph.nodes if n.op != "placeholder")
            with gm.graph.inserting_before(first):
                lifted = gm.graph.placeholder(f"lifted_{len(constants)}")
            lifted.meta["val"] = value
            constants[node.target] = lifted
        node.replace_all_uses_with(constants[node.target])
        gm.graph.erase_node(node)


def _attribute(gm: GraphModule, target: str) -> Any:
    value: Any = gm
    for part in target.split("."):
        value = getattr(value, part)
    return value
