"""Lowers and schedules a copy of a post-grad graph: real decisions, no code, no trace.

What Inductor would decide is not modelled here, it is asked: real lowering, real fusion, and
then everything that the run left behind is put back.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any
from unittest import mock

import torch
import torch._inductor.graph
from torch._dynamo.utils import counters
from torch._inductor import config, metrics
from torch._inductor.virtualized import V

from ..core.dag import Dag
from ..core.graph import Graph
from ..core.policy import STOCK, Policy
from .apply import mark, materializing, undecided
from .dag_reader import read_dag
from .pins import quiet
from .reader import read_scheduled
from .recording import Recording
from .reuse import MARK
from .shapes import scratch_shapes

__all__ = ["PostGrad", "copy_graph", "lowered", "run_lowering", "trial", "ungoverned_copy"]

# A dry run must not measure: there may be no device, and nobody asked for the time.
_QUIET = {
    "max_autotune": False,
    "max_autotune_gemm": False,
    "max_autotune_pointwise": False,
    "benchmark_fusion": False,
    "benchmark_epilogue_fusion": False,
    "benchmark_combo_kernel": False,
    "combo_kernels_autotune": 0,
    "trace.enabled": False,
}
# Two trials at once would take each other's figures for what was there before.
_lock = threading.RLock()


@dataclass(frozen=True)
class PostGrad:
    """A post-grad graph with what lowering needs beside it.

    ``inputs`` are fake tensors on the (planned) device, in placeholder order.
    """

    module: torch.fx.GraphModule
    inputs: tuple[Any, ...]
    fake_mode: Any
    is_inference: bool = True
    is_backward: bool = False
    cpp_wrapper: bool = False
    aot_mode: bool = False

    @property
    def nodes(self) -> int:
        """Number of FX nodes."""
        return len(self.module.graph.nodes)


def trial(
    graph: PostGrad, store: frozenset[str] | None, policy: Policy = STOCK
) -> tuple[Graph, Dag]:
    """Lowers and schedules ``graph`` with exactly the nodes in ``store`` materialized.

    None takes the choice of ``policy``, whose hooks must be installed.  For use on the device
    at hand, or inside :func:`.virtual_gpu.planned_device`.
    """
    chosen = contextlib.nullcontext() if store is None else undecided()
    with chosen, lowered(graph, policy, Recording, store or frozenset()) as lowering:
        scheduled = read_scheduled()
        return scheduled, read_dag(lowering, scheduled)


def copy_graph(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """A copy with graphs of its own, subgraphs included; weights and constants are shared.

    A deep copy would clone those, which is dear, and fails where a fake mode is active.
    """
    copied = torch.fx.GraphModule(module, copy.deepcopy(module.graph))
    copied.meta = dict(module.meta)
    if hasattr(module, "shape_env"):
        copied.shape_env = module.shape_env
    for name, child in module.named_children():
        if isinstance(child, torch.fx.GraphModule):
            setattr(copied, name, copy_graph(child))
    return copied


def ungoverned_copy(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """A :func:`copy_graph` without a policy: what is done to it is not planned again."""
    copied = copy_graph(module)
    for child in copied.modules():
        getattr(child, "meta", {}).pop(MARK, None)
    return copied


@contextlib.contextmanager
def lowered(
    graph: PostGrad, policy: Policy, lowering_class: Any, store: frozenset[str] = frozenset()
) -> Iterator[Any]:
    """A lowered and scheduled copy of ``graph``, inside its handler contexts."""
    module = ungoverned_copy(graph.module)
    if not policy.is_stock:
        module.meta[MARK] = policy
    mark(module, store)
    settings = {k: v for k, v in _QUIET.items() if k in config._config}
    with config.patch(settings), run_lowering(replace(graph, module=module), lowering_class) as one:
        one._update_scheduler()
        yield one


@contextlib.contextmanager
def run_lowering(graph: PostGrad, lowering_class: Any) -> Iterator[Any]:
    """A lowering of ``graph`` itself, run but not scheduled, inside its handler contexts.

    What it leaves behind in Inductor, Dynamo and the ShapeEnv is taken back in the end.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_lock)
        stack.enter_context(_no_trace())
        stack.enter_context(quiet())
        stack.enter_context(V.set_fake_mode(graph.fake_mode))
        stack.enter_context(V.set_debug_handler(_Silent()))
        if graph.fake_mode.shape_env is not None:
            stack.enter_context(scratch_shapes(graph.fake_mode))
            # Its entries would hold symbols that are gone after the trial.
            stack.enter_context(mock.patch.object(graph.fake_mode, "cache_enabled", False))
        lowering = lowering_class(
            graph.module,
            example_inputs=graph.inputs,
            shape_env=graph.fake_mode.shape_env,
            is_inference=graph.is_inference,
            is_backward=graph.is_backward,
            cpp_wrapper=graph.cpp_wrapper,
            aot_mode=graph.aot_mode,
        )
        stack.enter_context(V.set_graph_handler(lowering))
        stack.enter_context(V.set_extern_kernel_nodes([]))
        with materializing(lowering):
            lowering.run(*graph.inputs)
        yield lowering


@contextlib.contextmanager
def _no_trace() -> Iterator[None]:
    """Puts back Inductor's metrics, Dynamo's counters and the numbering of graphs."""
    before = {name: copy.copy(value) for name, value in _figures(metrics)}
    counted = {name: counter.copy() for name, counter in counters.items()}
    numbering = mock.patch.object(
        torch._inductor.graph, "_post_grad_graph_counter", itertools.count()
    )
    try:
        with numbering:
            yield
    finally:
        for name, value in before.items():
            setattr(metrics, name, value)
        counters.clear()
        counters.update(counted)


def _figures(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The module's own numbers and collections, by name."""
    for name, value in vars(module).items():
        if not name.startswith("_") and isinstance(value, int | float | list | dict | set):
            yield name, value


class _Silent:
    """Stands in for the debug handler, which only exists inside a real compile."""

    def __getattr__(self, _name: str) -> Any:
        return lambda *_args, **_kwargs: None
