"""What the two halves of a cut move, and what is alive meanwhile, from a lowering of each."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._functorch import partitioners
from torch._inductor import compile_fx, config
from torch._inductor.fx_passes.post_grad import view_to_reshape
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import GraphModule
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from ...core.memory import peak_bytes
from ...core.policy import STOCK
from ...core.saving import LoweredCut
from ...core.traffic import traffic
from ..fx.decision import NO_CHANGE
from ..fx.post_grad import PostGrad, copy_graph
from ..lower.counters import counting_apart
from ..lower.shapes import scratch_shapes
from ..lower.trial import lowered
from ..read.dag import read_dag
from ..read.kernels import read_scheduled
from ..read.recording import Recording
from ..read.storage import elements
from .upstreams import Halves

__all__ = ["HERE", "Place", "measured", "output_strides", "post_grad", "to_compile"]

# Passes of a program may do anything, and the real compile runs them; here they run for nothing.
_PROGRAMS = {"post_grad_custom_pre_pass": None, "post_grad_custom_post_pass": None}


@dataclass(frozen=True)
class Place:
    """Where halves are lowered.

    Attributes:
        prepare: makes the post-grad graph of one half, for the device.
        scope: a context inside which it is lowered.
    """

    prepare: Callable[[PostGrad], PostGrad]
    scope: Callable[[], AbstractContextManager[None]]


def post_grad(graph: PostGrad) -> PostGrad:
    """Runs Inductor's post-grad passes on a graph, in place."""
    compile_fx._recursive_record_original_output_strides(graph.module)
    with V.set_fake_mode(graph.fake_mode), torch.no_grad():
        compile_fx._recursive_post_grad_passes(graph.module, is_inference=graph.is_inference)
    return graph


#: The device at hand.
HERE = Place(post_grad, contextlib.nullcontext)


def measured(
    halves: Halves, fake_mode: Any, place: Place, *, peak: bool, most_pairs: int | None
) -> LoweredCut:
    """Forward and backward, each lowered once as stock lowers it; ``peak``: what is alive, too.

    Raises:
        TooManyPairs: scheduling one would compare more than ``most_pairs`` pairs of kernels.
        LoweringError, Exception: whatever Inductor's passes and lowerings raise.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(config.patch(_PROGRAMS))
        stack.enter_context(counting_apart())
        if fake_mode.shape_env is not None:
            stack.enter_context(scratch_shapes(fake_mode))
        lowered_as = functools.partial(_lowered, place=place, peak=peak, most_pairs=most_pairs)
        forward, strides = lowered_as(_half(halves.forward, fake_mode, place))
        results = next(iter(halves.forward.graph.find_nodes(op="output"))).args[0]
        named_strides = {
            getattr(result, "name", ""): one for result, one in zip(results, strides, strict=False)
        }
        inputs = [
            _with_strides(node.meta["val"], named_strides.get(node.name))
            for node in halves.backward.graph.find_nodes(op="placeholder")
        ]
        backward, _ = lowered_as(_half(halves.backward, fake_mode, place, inputs))
    alive = max(forward.peak, backward.peak + _held_beside(halves)) if peak else 0
    return LoweredCut(forward.moved + backward.moved, alive)


def _held_beside(halves: Halves) -> int:
    """Bytes of the forward's inputs that the backward does not get, and the caller still holds."""
    theirs = {node.name for node in halves.backward.graph.find_nodes(op="placeholder")}
    return sum(
        int(partitioners._size_of(node))
        for node in halves.forward.graph.find_nodes(op="placeholder")
        if node.name not in theirs and isinstance(node.meta["val"], torch.Tensor)
    )


def _half(
    module: GraphModule, fake_mode: Any, place: Place, inputs: Sequence[Any] | None = None
) -> PostGrad:
    is_backward = inputs is not None
    if inputs is None:
        inputs = [node.meta["val"] for node in module.graph.find_nodes(op="placeholder")]
    graph = PostGrad(module, tuple(inputs), fake_mode, is_inference=False, is_backward=is_backward)
    return place.prepare(to_compile(graph))


def to_compile(graph: PostGrad) -> PostGrad:
    """A copy of what AOTAutograd hands on, as Inductor has it before its post-grad passes."""
    copied = copy_graph(graph.module)
    view_to_reshape(copied)
    if graph.is_backward:
        # What the forward saved has the strides that its lowering gave it, not those traced.
        with enable_python_dispatcher(), torch.no_grad():
            FakeTensorProp(copied, graph.fake_mode).propagate_dont_convert_inputs(*graph.inputs)
    return replace(graph, module=copied)


def _lowered(
    graph: PostGrad, place: Place, peak: bool, most_pairs: int | None
) -> tuple[LoweredCut, list[tuple[int, ...] | None]]:
    kind = Recording if peak else GraphLowering
    scope = place.scope()
    with scope, lowered(graph, NO_CHANGE, "", STOCK, kind, most_pairs) as lowering:
        kernels = read_scheduled()
        alive = 0
        if peak:
            dag = read_dag(lowering, kernels)
            alive = peak_bytes(dag, dag.homes())
        strides = [output_strides(x) for x in lowering.graph_outputs]
        return LoweredCut(traffic(kernels).bytes, alive), strides


def output_strides(output: Any) -> tuple[int, ...] | None:
    """The strides that Inductor gave to one output; None for what is no tensor."""
    data = getattr(output, "data", None)
    layout: Any = getattr(output, "layout", None) or getattr(data, "layout", None)
    if not hasattr(layout, "stride"):
        return None
    return tuple(elements(stride) for stride in layout.stride)


def _with_strides(value: Any, strides: tuple[int, ...] | None) -> Any:
    """A fake tensor with other strides; whatever is none, or has them, as it is."""
    if strides is None or not isinstance(value, FakeTensor) or tuple(value.stride()) == strides:
        return value
    if value.dim() != len(strides):
        return value
    with value.fake_mode:
        return torch.empty_strided(value.size(), strides, dtype=value.dtype, device=value.device)
