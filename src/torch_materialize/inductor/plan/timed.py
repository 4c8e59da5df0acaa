"""Compiles a post-grad graph for real, on inputs that are made up, to be timed.

Only what can do no harm is run: graphs of functional operators on the device at hand, on
copies of our own, with the user's random state as it was afterwards.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch._inductor.graph import GraphLowering
from torch.utils._python_dispatch import _disable_current_modes

from ..contract import seams
from ..fx.decision import Decision, prepare, rounds_casts
from ..fx.post_grad import PostGrad, ungoverned_copy
from ..lower.cpp_casts import keep_casts
from ..lower.outer_loops import keep_outer_loops_apart
from ..lower.realize import choosing
from ..lower.settings import patched
from ..lower.trial import run_lowering

__all__ = ["clock", "compiled", "is_on_gpu", "made_up", "outside", "sizes", "why_not"]

# Operators without effects beyond their arguments, whatever numbers they get.
_NAMESPACES = ("aten", "prims", "inductor", "quantized_decomposed", "torch_materialize")
# Memory that is left alone when inputs are made, as a multiple of the inputs' own size: what
# the graph allocates is of the same order.
_ROOM = 2.5


def why_not(graph: PostGrad) -> str:
    """Why a graph cannot be timed here, "" where it can."""
    return next(_reasons(graph), "")


def _reasons(graph: PostGrad) -> Iterator[str]:
    yield from map(str, seams.check("tune"))
    if graph.aot_mode or graph.cpp_wrapper:
        yield "it is compiled for a program without Python"
    for node in graph.module.graph.nodes:
        if node.op == "call_function" and not _is_harmless(node.target):
            yield f"{node.target} may do more than compute"
    if any(not _can_be_made(x) for x in graph.inputs):
        yield "an input is no plain tensor or number"
    if any(sizes(x) is None for x in graph.inputs):
        yield "a size depends on data"
    devices = {x.device for x in graph.inputs if isinstance(x, torch.Tensor)}
    if len(devices) != 1 or next(iter(devices)).type not in ("cpu", "cuda"):
        yield "it is not on one CPU or GPU"
    (device,) = devices
    if device.type == "cuda" and not torch.cuda.is_available():
        yield "its device is not here"
    if _ROOM * sum(map(_nbytes, graph.inputs)) > _free(device):
        yield "its inputs do not fit beside the program's own"


def sizes(value: Any) -> tuple[int, ...] | None:
    """Hints for an input's sizes and strides, or its value; None where they depend on data."""
    parts = (*value.shape, *value.stride()) if _is_dense(value) else (value,)
    hints = tuple(_hint(part) for part in parts if isinstance(part, int | torch.SymInt))
    return None if None in hints else hints  # type: ignore[return-value]


def made_up(graph: PostGrad) -> list[Any]:
    """Real inputs in the place of the fake ones: small random floats, and zeros for integers.

    Zeros are safe indices.
    """
    with outside(graph):
        return [_make(x) for x in graph.inputs]


def compiled(graph: PostGrad, decision: Decision, numerics: str) -> Callable[[list[Any]], Any]:
    """A function of a list of inputs, as ``decision`` wants the graph compiled.

    ``numerics`` is the policy's numerics.  The graph itself is left as it is.

    Raises:
        Exception: whatever Inductor raises.
    """
    copied = replace(graph, module=ungoverned_copy(graph.module))
    prepare(copied.module, decision, numerics)
    # What is written while the user debugs should be the user's own graph.
    settings = {"trace.enabled": False}
    with (
        patched(settings),
        choosing(decision),
        run_lowering(copied, GraphLowering) as lowering,
    ):
        if decision.changes:
            keep_outer_loops_apart(lowering)
        if rounds_casts(decision, numerics):
            keep_casts(lowering)
        with outside(graph):
            call: Callable[[list[Any]], Any] = lowering.compile_to_module().call
    return call


@contextlib.contextmanager
def outside(graph: PostGrad) -> Iterator[None]:
    """Inside the block tensors are real, nothing is traced, and random state is put back.

    That state is the process's, so it is only touched for a graph that draws from it.
    """
    used = {x.device for x in graph.inputs if isinstance(x, torch.Tensor)}
    gpus = [device for device in used if device.type == "cuda"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(_disable_current_modes())
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch._C._DisableAutocast())
        stack.enter_context(torch.random.fork_rng(gpus, enabled=_draws(graph)))
        yield


def is_on_gpu(graph: PostGrad) -> bool:
    """Whether an input is on a GPU."""
    return any(isinstance(x, torch.Tensor) and x.device.type == "cuda" for x in graph.inputs)


def clock(graph: PostGrad, call: Callable[[list[Any]], Any], inputs: list[Any]) -> Any:
    """A function that runs ``call`` once and says how many seconds it took on its device."""
    if not is_on_gpu(graph):

        def timed() -> float:
            start = time.perf_counter()
            call(list(inputs))
            return time.perf_counter() - start

        return timed
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def by_events() -> float:
        first.record()
        call(list(inputs))
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last)) * 1e-3

    return by_events


def _draws(graph: PostGrad) -> bool:
    """Whether a graph has random numbers."""
    seeded = torch.Tag.nondeterministic_seeded
    return any(seeded in getattr(node.target, "tags", ()) for node in graph.module.graph.nodes)


def _is_harmless(target: Any) -> bool:
    if not isinstance(target, torch._ops.OpOverload):
        # Python's own: getitem, arithmetic on sizes.  A higher-order operator is not.
        return not isinstance(target, torch._ops.HigherOrderOperator)
    if target.namespace in _NAMESPACES:
        return True
    schema = target._schema
    return bool(schema.returns) and not schema.is_mutable and "c10d" not in target.namespace


def _is_dense(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout is torch.strided


def _can_be_made(value: Any) -> bool:
    return _is_dense(value) or isinstance(value, int | float | torch.SymInt)


def _hint(size: Any) -> int | None:
    return size.node.hint if isinstance(size, torch.SymInt) else size


def _nbytes(value: Any) -> int:
    if not isinstance(value, torch.Tensor):
        return 0
    return _extent(value) * value.element_size()


def _extent(value: torch.Tensor) -> int:
    """Elements from the first to the last that a tensor touches."""
    hints = [_hint(part) or 0 for part in (*value.shape, *value.stride())]
    shape, strides = hints[: value.dim()], hints[value.dim() :]
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def _make(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return _hint(value)
    flat = torch.zeros(_extent(value), dtype=value.dtype, device=value.device)
    if value.dtype.is_floating_point and value.dtype.itemsize > 1:
        flat.uniform_(-1, 1, generator=torch.Generator(value.device))
    hints = [_hint(part) or 0 for part in (*value.shape, *value.stride())]
    return flat.as_strided(hints[: value.dim()], hints[value.dim() :])


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    found = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return int(next(found, 0)) << 10
