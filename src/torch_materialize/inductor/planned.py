"""The `plan` policy in a real compile: plan when a graph is about to be lowered.

The making of a ``GraphLowering`` is the place, and not our own post-grad pass: after that pass
come upstream's last ones (auto-functionalized operators, re-inplacing) and other people's, so
only here is the graph what will be lowered; and nothing has looked at it yet, so that casts
which the plan does not use can still be folded.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._inductor import lowering
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V

from .. import activation
from ..core.deadline import OutOfTime
from ..core.devices import Device
from ..core.fits import FITS
from ..core.limits import Limits
from ..core.policy import Policy
from ..events import detailed, log, surprise
from .apply import as_stock, materializing, undecided
from .at_hand import device_of
from .cpp_casts import keep_casts
from .decision import GIVEN_UP, STOCKS, Decision, give_back, prepare, rounds_casts
from .fallback import suspect
from .futile import nothing_to_gain
from .narrow import failed_pass
from .outer_loops import keep_outer_loops_apart
from .pins import failures
from .post_grad import PostGrad
from .ranks import agreed
from .reuse import MARK
from .search import Found, search
from .trial import LoweringError
from .tune import tuned
from .uncached import uncached

__all__ = ["limits_for", "patch_graph_lowering_init", "patch_graph_lowering_run"]

_SEAM = "torch._inductor.graph:GraphLowering.__init__"
# Attribute of a lowering whose graph carries marks of a plan.
_PLANNED = "_torch_materialize_planned"

# What one launch costs: on a GPU the seconds that an H200 took for one (what `benchmarks/fit.py`
# says of its results: 1.6 us for a pointwise kernel, more for others, in the replay of a CUDA
# graph), as bytes that the device at hand could have moved meanwhile; on a CPU some ten
# microseconds.
_GPU_LAUNCH_SECONDS = 1.7e-6
_CPU_LAUNCH_BYTES = 100_000
# A dry run takes some 1.7 ms for each node, which should be won back within 50,000 calls.  On a
# GPU, where code takes far longer to compile, the first plan is always tried.
_CPU_NODE_SECONDS = 1.7e-3 / 50_000
# Of two cores, where no rates were measured.
_CPU_BYTE_SECONDS = 1e-10
# What one operation costs in the same coin.  An H200 moves 4.8 TB/s and does some 50 T simple
# operations a second, a tenth of a byte each; a CPU core with vectors of 8 moves 10 GB/s and does
# some 50 G.  A fraction of that, since a loop body shows more than what is executed (values that
# a whole row shares): it is to keep out what is compute-bound beyond doubt.  Rates that were
# measured on a device have the last word (`Limits.doubts`).
_GPU_BALANCE = 0.02
# Of a CPU without measured rates: what the one that was measured needs, so that a plan recomputes
# no more there.  More cores at one memory have operations to spare.
_CPU_BALANCE = 0.8


def patch_graph_lowering_init(upstream: Callable[..., None]) -> Callable[..., None]:
    """Wraps ``GraphLowering.__init__``; graphs without a policy pass straight on."""
    signature = inspect.signature(upstream)

    @functools.wraps(upstream)
    def __init__(self: GraphLowering, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        policy = getattr(bound.arguments["gm"], "meta", {}).get(MARK)
        found: Decision | None = STOCKS
        if policy is not None and policy.plans:
            found = _applied(type(self), bound.arguments, policy)
        upstream(self, *args, **kwargs)
        if policy is None:
            return
        if found is None:
            uncached(self)
            return
        if found.store is not None:
            setattr(self, _PLANNED, True)
        if found.changes or policy.name == "traffic":
            keep_outer_loops_apart(self)
        if rounds_casts(found, policy.numerics):
            keep_casts(self)
        if found is GIVEN_UP:
            uncached(self)

    return __init__


def patch_graph_lowering_run(upstream: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps ``GraphLowering.run``: what a plan marks is materialized, the rest stays inlined."""

    @functools.wraps(upstream)
    def run(self: GraphLowering, *args: Any) -> Any:
        chosen: Any = contextlib.nullcontext()
        if getattr(self, _PLANNED, False):
            chosen = undecided()
        elif getattr(self, "parent", None) is not None:
            chosen = as_stock()  # the subgraph of a planned graph has no marks
        try:
            with chosen, materializing(self):
                return upstream(self, *args)
        finally:
            # Now that the graph is lowered, the hooks that were held for it may go.
            if activation.release(id(self.module)):
                from . import patch

                patch.remove_if_unneeded()

    return run


def limits_for(device: Device | None) -> Limits:
    """The limits that a plan respects on a device; None: one that we know nothing of.

    A device of the table that is named (a dry run, ``compare``) has its rates; of the one at hand
    :mod:`.at_hand` says whether they are its own.
    """
    rates = FITS.get(device.fitted) if device else None
    if device is None or device.is_gpu:
        launch = int(_GPU_LAUNCH_SECONDS * (device.bandwidth if device else 0.0))
        # Next to compiling for a GPU one more dry run is nothing.
        return Limits(
            launch_bytes=launch or Limits.launch_bytes,
            balance=_GPU_BALANCE,
            doubts=rates,
            locally=True,
        )
    return Limits(
        rates=rates,
        launch_bytes=_CPU_LAUNCH_BYTES,
        balance=rates.balance if rates else _CPU_BALANCE,
        least_bytes=_CPU_LAUNCH_BYTES,
        node_bytes=_CPU_NODE_SECONDS / (rates.byte if rates else _CPU_BYTE_SECONDS),
    )


def _applied(kind: type, arguments: dict[str, Any], policy: Policy) -> Decision | None:
    """Plans a graph and prepares it in place; None where that failed: stock lowers it then."""
    module = arguments["gm"]
    with failures() as failed:
        try:
            found = _planned(kind, arguments, policy, failed)
            prepare(module, found, policy.numerics)
        except LoweringError as error:
            # Stock may well fail where its dry run did, and that is not ours to report.
            give_back(module)
            suspect(_SEAM, error)
            return None
        except Exception as error:  # noqa: BLE001 - a compile never fails because of us
            if not failed:  # what failed with pins and is reported may well be what fails here
                surprise(_SEAM, error)
            give_back(module)
            return None
        return found


def _planned(
    kind: type, arguments: dict[str, Any], policy: Policy, failed: Sequence[Exception]
) -> Decision:
    """The plan of one graph; stock's where it is out of our reach, or pins ``failed`` meanwhile."""
    reason = _out_of_reach(kind, arguments)
    if reason:
        log.info("plan: left to stock: %s", reason)
        return STOCKS
    inputs = tuple(arguments["example_inputs"] or ())
    graph = PostGrad(
        arguments["gm"],
        inputs,
        V.fake_mode,
        arguments["is_inference"],
        arguments["is_backward"],
        arguments["cpp_wrapper"],
        arguments["aot_mode"],
    )
    limits = limits_for(device_of(inputs))
    found = agreed(graph, policy, functools.partial(_decided, graph, limits, policy))
    if failed:
        log.info("plan: left to stock: a pin could not be lowered")
        return STOCKS
    if isinstance(found, Found):
        # Imported here: it explains by what this module and dry runs are made of.
        from .telling import tell

        tell(graph, policy, found, limits.balance)
    return found


def _decided(graph: PostGrad, limits: Limits, policy: Policy, may_measure: bool) -> Decision:
    """What this process alone decides."""
    from .telling import told

    if policy.name == "tune" and may_measure:
        chosen = tuned(graph, limits, policy)
        if chosen is not None:
            return chosen
    usual = policy.limits == "usual" and not told()
    if usual and nothing_to_gain(graph, limits, policy.numerics):
        log.info("plan: %d nodes: stock kept without a dry run: nothing to gain", graph.nodes)
        return STOCKS
    # The bound is only for people to read; without a reader it is not worth its solve, and
    # of repeated layers, not its dry runs.
    try:
        return search(graph, limits, policy, certify=detailed())
    except OutOfTime as error:
        log.warning("plan: a graph of %d nodes: %s", graph.nodes, error)
        return GIVEN_UP


def _out_of_reach(kind: type, arguments: dict[str, Any]) -> str:
    """Why a graph cannot be planned, "" where it can."""
    if kind is not GraphLowering:
        return "it is the subgraph of another graph"
    if arguments["is_const_graph"]:
        return "it folds constants and runs once"
    if failed := failed_pass():
        return f"config.{failed} failed"
    fuses = any(_is_lowered(node) for node in arguments["gm"].graph.nodes)
    return "" if fuses else "it calls kernels of others only"


def _is_lowered(node: torch.fx.Node) -> bool:
    """Whether an FX node may become part of a kernel that Inductor writes; a view counts, too."""
    if node.op != "call_function":
        return False
    return node.target in lowering.lowerings and node.target not in lowering.fallbacks
