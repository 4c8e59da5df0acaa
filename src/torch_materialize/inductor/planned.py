"""The `plan` policy in a real compile: plan when a graph is about to be lowered.

``GraphLowering.run`` is the place, and not our own post-grad pass: after it come upstream's
last passes (auto-functionalized operators, re-inplacing) and other people's, so only here is
the graph what will be lowered.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from ..core.planner import Limits
from ..core.traffic import traffic
from ..events import log, surprise
from .apply import mark, undecided
from .reuse import MARK
from .search import Found, search
from .trial import PostGrad

__all__ = ["limits_for", "patch_graph_lowering_run"]

# What one launch costs, as bytes that the device could have moved meanwhile: about a
# microsecond of an H200's or ten of a CPU's bandwidth.
_GPU_LAUNCH_BYTES = 4_000_000
_CPU_LAUNCH_BYTES = 100_000


def patch_graph_lowering_run(upstream: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps ``GraphLowering.run``; graphs without the policy `plan` pass straight through."""

    @functools.wraps(upstream)
    def run(self: GraphLowering, *args: Any) -> Any:
        store = None
        policy = getattr(self.module, "meta", {}).get(MARK)
        if policy is not None and policy.name == "plan":
            try:
                store = _planned(self, args)
            except Exception as error:  # noqa: BLE001 - a compile never fails because of us
                surprise("torch._inductor.graph:GraphLowering.run", error)
        if store is None:
            return upstream(self, *args)
        mark(self.module, store)
        with undecided():
            return upstream(self, *args)

    return run


def limits_for(is_gpu: bool) -> Limits:
    """The limits that a plan respects on a kind of device."""
    return Limits(launch_bytes=_GPU_LAUNCH_BYTES if is_gpu else _CPU_LAUNCH_BYTES)


def _planned(lowering: GraphLowering, inputs: tuple[Any, ...]) -> frozenset[str] | None:
    """The nodes to materialize, None where stock is to be left alone."""
    reason = _out_of_reach(lowering)
    if reason:
        log.info("plan: left to stock: %s", reason)
        return None
    is_gpu = any(isinstance(x, torch.Tensor) and x.device.type != "cpu" for x in inputs)
    graph = PostGrad(
        lowering.module,
        inputs,
        V.fake_mode,
        lowering.is_inference,
        lowering.is_backward,
        lowering.cpp_wrapper,
    )
    found = search(graph, limits_for(is_gpu))
    _report(graph, found)
    return found.store


def _out_of_reach(lowering: GraphLowering) -> str:
    """Why a graph cannot be planned, "" where it can."""
    if type(lowering) is not GraphLowering:
        return "the subgraph of another graph is decided with that graph"
    if lowering.aot_mode or lowering.is_const_graph:
        return "ahead-of-time compilation is not planned yet"
    for node in lowering.module.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and free_unbacked_symbols(value):
            return f"{node.name} has an unbacked size, so its bytes are unknown"
    return ""


def _report(graph: PostGrad, found: Found) -> None:
    before, after = traffic(found.stock), traffic(found.graph)
    log.info(
        "plan: %d nodes, %s: %d bytes in %d kernels (stock: %d in %d; certified least: %.0f), "
        "%d dry runs in %.2f s",
        graph.nodes,
        "stock kept" if found.store is None else f"{len(found.store)} tensors materialized",
        after.bytes,
        after.kernels,
        before.bytes,
        before.kernels,
        found.bound,
        found.rounds,
        found.seconds,
    )
