"""Lowers and schedules a copy of a post-grad graph: real decisions, no code, no trace.

What Inductor would decide is not modelled here, it is asked: real lowering, real fusion, and
then everything that the run left behind is put back.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest import mock

import torch
import torch._inductor.graph
from torch._dynamo.utils import counters
from torch._inductor import config, metrics
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V

from .. import activation
from ..core.devices import Device
from ..core.graph import Graph
from ..core.policy import Policy
from . import patch
from .reader import read_scheduled
from .reuse import MARK
from .virtual_gpu import planned_device

__all__ = ["PostGrad", "dry_run"]

# A dry run must not measure: there may be no device, and nobody asked for the time.
_QUIET = {
    "max_autotune": False,
    "max_autotune_gemm": False,
    "max_autotune_pointwise": False,
    "benchmark_fusion": False,
    "benchmark_epilogue_fusion": False,
    "trace.enabled": False,
}


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

    @property
    def nodes(self) -> int:
        """Number of FX nodes."""
        return len(self.module.graph.nodes)


def dry_run(graph: PostGrad, policy: Policy, device: Device) -> Graph:
    """Which kernels Inductor would launch for ``graph`` under ``policy`` on ``device``.

    The graph itself is left as it is; the run is repeatable.

    Raises:
        UnsupportedTorchError: the policy cannot be applied to this torch.
        Exception: whatever Inductor raises while lowering.
    """
    module = copy.deepcopy(graph.module)
    module.meta.pop(MARK, None)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_hooks_for(policy))
        if not policy.is_stock:
            module.meta[MARK] = policy
        stack.enter_context(_no_trace())
        stack.enter_context(config.patch(_QUIET))
        stack.enter_context(V.set_fake_mode(graph.fake_mode))
        stack.enter_context(V.set_debug_handler(_Silent()))
        stack.enter_context(planned_device(device))
        lowering = GraphLowering(
            module,
            example_inputs=graph.inputs,
            shape_env=graph.fake_mode.shape_env,
            is_inference=graph.is_inference,
            is_backward=graph.is_backward,
        )
        stack.enter_context(V.set_graph_handler(lowering))
        stack.enter_context(V.set_extern_kernel_nodes([]))
        lowering.run(*graph.inputs)
        lowering._update_scheduler()
        return read_scheduled()


@contextlib.contextmanager
def _hooks_for(policy: Policy) -> Iterator[None]:
    """Our hooks for the time of one dry run, however many others need them."""
    if policy.is_stock:
        yield
        return
    try:
        with activation.block(policy):
            patch.install()
            yield
    finally:
        patch.remove_if_unneeded()


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
