"""Captures the post-grad graphs of a model as ``torch.compile`` would make them, on no memory.

The model is traced on fake CPU tensors through Dynamo, AOTAutograd and the joint-graph
passes; each graph, where Inductor would get it, is moved to the planned device and goes
through the post-grad passes there.  What this changes against a trace on a real GPU: operators
that are chosen by device before the joint graph (scaled-dot-product attention becomes the CPU
flash operator, a few decompositions), and joint-graph passes that act on GPU tensors only
(matmul padding).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch._dynamo
from functorch.compile import make_boxed_func
from torch._dynamo.exc import BackendCompilerFailed
from torch._functorch import config as functorch_config
from torch._guards import TracingContext
from torch._guards import tracing as tracing_context
from torch._inductor import compile_fx as inductor_compile
from torch._inductor import config
from torch._inductor.graph import GraphLowering
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from ...core.devices import Device
from ...core.policy import MEMORY, STOCK, Policy, parse
from ...errors import CaptureError, MaterializeError, brief
from ..fx.bodies import with_bodies
from ..fx.decision import NO_CHANGE
from ..fx.post_grad import PostGrad, copy_graph, fake_mode_of
from ..fx.rounding import emulation
from ..hooks.cast_passes import hold_options
from ..hooks.partitioner import CUT_KEY, partitioner_options
from ..lower.trial import lowered
from ..lower.virtual_gpu import planned_device, torch_device
from ..partition.measured import Place, output_strides, to_compile
from .compiler import Compiler
from .fake_mode import fake_mode
from .isolation import isolated
from .placing import move, on_device

__all__ = ["capture", "capture_for", "fake_mode", "planned_graph", "traced_for"]

# What autograd says where a backward is wanted and gradients are off.
_NO_GRADIENTS = "does not require grad"
# Its graphs serve every policy but those that have a tracing of their own.
_ANY = parse("plan")


def capture(
    model: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    device: Device,
    mode: FakeTensorMode,
    tracing: str = "dynamo",
    *,
    training: bool = False,
    dynamic: bool | None = None,
    policy: Policy = _ANY,
    compiler: Compiler | None = None,
    with_curve: bool = False,
) -> list[PostGrad]:
    """The graphs of ``model(*args, **kwargs)``, at least one for each Dynamo graph.

    ``tracing`` is ``dynamo`` for the whole pipeline of ``torch.compile``, or ``make_fx`` to
    go straight to a post-grad graph: one inference graph, no joint-graph or post-grad passes.
    ``training`` gives forwards and their backwards, in order of capture, and so does a training
    step that calls ``.backward()`` itself, whose optimizer's graphs come after them, as in a
    step that is not the first; ``dynamic`` is ``torch.compile``'s; ``compiler`` is another
    program's way of compiling; ``with_curve`` says what else a forward could keep for its backward
    (:data:`..partition.kept.KEPT_KEY`).  The graphs are for every policy that is traced like
    ``policy`` (:attr:`.Policy.tracing`).  A graph is followed by the bodies of
    its higher-order operators (:mod:`..fx.bodies`).

    Raises:
        CaptureError: the model cannot be traced; the cause is chained.
    """
    given = (model, args, kwargs, device, mode, tracing)
    traced = partial(
        _traced,
        *given,
        dynamic=dynamic,
        policy=policy,
        compiler=compiler,
        with_curve=with_curve,
    )
    try:
        try:
            graphs = traced(training=training)
        except Exception as error:
            # A step that makes its own backward says so by needing gradients.
            if training or tracing != "dynamo" or _NO_GRADIENTS not in str(error):
                raise
            graphs = traced(training=True)
    except MaterializeError:
        raise
    except Exception as error:
        cause = _cause(error)
        if isinstance(cause, MaterializeError):
            raise cause from error
        raise CaptureError(
            f"the model was built but could not be traced ({tracing}) on fake tensors: "
            f"{_one_line(cause)}. {_next_step(cause)}"
        ) from error
    if not graphs:
        raise CaptureError("the model was traced, but it has no graph for Inductor to compile")
    return [one for graph in graphs for one in with_bodies(graph)]


def _traced(
    model: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    device: Device,
    mode: FakeTensorMode,
    tracing: str,
    *,
    training: bool,
    dynamic: bool | None,
    policy: Policy,
    compiler: Compiler | None,
    with_curve: bool,
) -> list[PostGrad]:
    """The graphs with gradients on or off."""
    with mode, torch.set_grad_enabled(training):
        if tracing == "make_fx":
            with config.patch(emulation(policy)):
                return _trace_make_fx(model, args, kwargs, device)
        if training and not isinstance(model, torch.nn.Module):
            # The state that an optimizer makes in its first step; a step is one of many.
            with isolated():
                torch.compile(model, backend="eager", dynamic=dynamic)(*args, **kwargs)
        return _trace_dynamo(model, args, kwargs, device, dynamic, policy, compiler, with_curve)


def capture_for(
    policies: Sequence[Policy],
    model: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    device: Device,
    mode: FakeTensorMode,
    tracing: str = "dynamo",
    **how: Any,
) -> dict[Policy, list[PostGrad]]:
    """:func:`capture` for several policies, once for all that are traced alike.

    Raises:
        CaptureError: as for :func:`capture`, or the policies' graphs cannot be distinguished.
    """
    traced: dict[str, list[PostGrad]] = {}
    # Those that cut joint graphs come first: where none is cut otherwise, stock's are the same.
    for policy in sorted(policies, key=lambda policy: not policy.plans):
        name = _traced_like(policy, traced)
        if name not in traced:
            traced[name] = capture(model, args, kwargs, device, mode, tracing, policy=policy, **how)
    found = {policy: traced[_traced_like(policy, traced)] for policy in policies}
    if len({len(graphs) for graphs in traced.values()}) > 1:
        counts = {name or "stock": len(graphs) for name, graphs in traced.items()}
        raise CaptureError(
            f"the model has other graphs under other policies ({counts}), so that they cannot be "
            "compared graph by graph; compare one kind of numerics at a time."
        )
    return found


def _traced_like(policy: Policy, traced: Mapping[str, list[PostGrad]]) -> str:
    """A name that policies with the same graphs share, given what was traced before."""
    if MEMORY in policy.settings:
        return f"{policy.tracing} memory={policy.settings[MEMORY]}"
    plans = traced.get(f"{policy.tracing} plan", [])
    is_cut = any(CUT_KEY in graph.module.meta for graph in plans)
    return f"{policy.tracing} {'plan' if policy.plans or (plans and not is_cut) else 'stock'}"


def _next_step(error: Exception) -> str:
    if _NO_GRADIENTS in str(error):
        return (
            "`.backward()` is called on what depends on no tensor that requires gradients: give "
            "the weights `requires_grad=True` and leave `torch.no_grad()` out; or leave out "
            "`.backward()` and the optimizer, return the loss and `explain --training` it."
        )
    return (
        "Check that `torch.compile(model)` accepts it, and that it does not branch on values "
        "of tensors: nothing has a value here."
    )


def _one_line(error: Exception) -> str:
    """An error of Dynamo's in one line: what the operator said, and the user's own line."""
    words, _, trace = str(error).partition("from user code:")
    marks = ("): got ", "Caused by: ")
    said = [line.strip() for line in words.splitlines() if any(mark in line for mark in marks)]
    text = " ".join(dict.fromkeys([brief(error), *said[:1]]))
    lines = [line.strip() for line in trace.splitlines()]
    places = [index for index, line in enumerate(lines) if line.startswith("File ")]
    if places:
        text += f" ({': '.join(lines[places[-1] : places[-1] + 2])})"
    return text


def _cause(error: Exception) -> Exception:
    """What went wrong inside our backend, without the words that Dynamo puts around it."""
    while isinstance(error, BackendCompilerFailed):
        error = error.inner_exception
    return error


def _trace_dynamo(
    model: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    device: Device,
    dynamic: bool | None,
    policy: Policy,
    compiler: Compiler | None,
    with_curve: bool,
) -> list[PostGrad]:
    graphs: list[PostGrad] = []

    def keep(module: torch.fx.GraphModule, inputs: Sequence[Any], **how: Any) -> Any:
        # Dynamo also hands over graphs without any operator (shape arithmetic between breaks).
        if any(n.op == "call_function" for n in module.graph.nodes):
            with unset_fake_temporarily():
                graphs.append(planned_graph(module, inputs, how, device))
        return make_boxed_func(module.forward)

    def backend(module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
        if compiler is None:
            return inductor_compile.compile_fx(module, inputs, inner_compile=keep)
        for piece in compiler.split(copy_graph(module)):
            _compile_piece(piece, compiler.settings, keep)
        return module.forward

    scope = contextlib.nullcontext() if compiler is None else compiler.scope()
    with isolated(), traced_for(policy, device, with_curve), scope:
        torch.compile(model, backend=backend, dynamic=dynamic)(*args, **kwargs)
    return graphs


@contextlib.contextmanager
def traced_for(policy: Policy, device: Device, with_curve: bool = False) -> Iterator[None]:
    """Inside the block graphs reach Inductor as they do under ``policy`` on ``device``."""
    # Casts that a plan could use are kept in; every other policy folds them as upstream does.
    current = partial(getattr, config)
    held = hold_options(policy, "capture", current)
    # Cuts of joint graphs are measured on the planned device, too.
    place = Place(partial(on_device, device=device), partial(planned_device, device))
    held |= partitioner_options(policy, "capture", current, place, with_curve)
    # Backwards are compiled with their forwards: whether a .backward() follows, or none.
    aot = {"enable_autograd_cache": False, "force_non_lazy_backward_lowering": True}
    settings = {**emulation(policy), **held}
    with functorch_config.patch(aot), config.patch(settings):
        yield


def _compile_piece(
    piece: torch.fx.GraphModule, settings: Mapping[str, Any], keep: Callable[..., Any]
) -> None:
    """Hands one part of a Dynamo graph to Inductor, as ``standalone_compile`` does."""
    inputs = [node.meta["example_value"] for node in piece.graph.find_nodes(op="placeholder")]
    mode = next(x.fake_mode for x in inputs if isinstance(x, torch._subclasses.FakeTensor))
    # The context of the whole graph knows parameters that are plain inputs of the part.
    with tracing_context(TracingContext(mode)):
        inductor_compile.compile_fx(
            piece, inputs, inner_compile=keep, config_patches=dict(settings)
        )


def planned_graph(
    module: torch.fx.GraphModule, inputs: Sequence[Any], how: Mapping[str, Any], device: Device
) -> PostGrad:
    """The post-grad graph on ``device`` of what Inductor is to compile; the module still runs.

    ``how`` is what upstream hands an ``inner_compile`` besides.
    """
    is_inference, is_backward = how.get("is_inference", False), how.get("is_backward", False)
    given = PostGrad(module, tuple(inputs), _mode_of(module), is_inference, is_backward)
    graph = on_device(to_compile(given), device)
    if not is_inference and not is_backward:
        _report_strides(graph, device)
    return graph


def _report_strides(graph: PostGrad, device: Device) -> None:
    """Says to AOTAutograd how Inductor lays out a forward's outputs, as a real compile does.

    Without it the backward of a convolutional network starts from contiguous activations that
    a real forward saves as channels last, and pays for copies that no real backward makes.
    """
    context = TracingContext.try_get()
    if context is None or context.output_strides is None:
        return
    with planned_device(device), lowered(graph, NO_CHANGE, "", STOCK, GraphLowering) as lowering:
        context.output_strides.extend(output_strides(output) for output in lowering.graph_outputs)


def _mode_of(module: torch.fx.GraphModule) -> Any:
    """The fake mode that the graph's values belong to: Dynamo makes its own."""
    mode = fake_mode_of(module.graph)
    if mode is None:
        raise CaptureError("a graph without tensors cannot be planned: nothing has a size")
    return mode


def _trace_make_fx(
    model: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], device: Device
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
    graph = PostGrad(module, tuple(inputs), _mode_of(module))
    with unset_fake_temporarily():
        return [move(graph, torch_device(device))]
