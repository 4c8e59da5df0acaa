"""The `plan` policy in a real compile: plan when a graph is about to be lowered.

The making of a ``GraphLowering`` is the place, and not our own post-grad pass: after that pass
come upstream's last ones (auto-functionalized operators, re-inplacing) and other people's, so
only here is the graph what will be lowered; and nothing has looked at it yet, so that casts
which the plan does not use can still be folded.

The body of a higher-order operator gets a lowering of its own, while the graph that calls it is
lowered.  It is planned there, once for all its calls, like any other graph.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch._inductor import lowering
from torch._inductor.graph import GraphLowering, SubgraphLowering
from torch._inductor.virtualized import V

from ... import activation
from ...core.deadline import OutOfTime
from ...core.limits import Limits, limits_for
from ...core.policy import Policy
from ...errors import LeftToStockError, MemoryBudgetError
from ...events import detailed, log, surprise
from ..explain.announce import announce, has_readers
from ..fx.bodies import body_of
from ..fx.decision import GIVEN_UP, NO_CHANGE, Decision, give_back, prepare, rounds_casts
from ..fx.policy_mark import POLICY_KEY
from ..fx.post_grad import PostGrad
from ..lower.cpp_casts import keep_casts
from ..lower.handover import Handover, finished
from ..lower.outer_loops import keep_outer_loops_apart
from ..lower.pins import failures
from ..lower.realize import as_stock, realizing, undecided
from ..lower.switched import keep_switched
from ..lower.trial import LoweringError
from ..plan.nothing_to_gain import nothing_to_gain
from ..plan.outcome import Found
from ..plan.plan_files import from_file
from ..plan.ranks import agreed
from ..plan.search import search
from ..plan.tune import tuned
from ..read.at_hand import device_of
from .cast_passes import failed_pass
from .fallback import suspect
from .sites import remove_if_unneeded
from .uncached import uncached

__all__ = ["patch_graph_lowering_init", "patch_graph_lowering_run"]

_SEAM = "torch._inductor.graph:GraphLowering.__init__"
# Attribute of a lowering whose graph carries marks of a plan.
_PLANNED = "_torch_materialize_planned"


def patch_graph_lowering_init(upstream: Callable[..., None]) -> Callable[..., None]:
    """Wraps ``GraphLowering.__init__``; graphs without a policy pass straight on."""
    signature = inspect.signature(upstream)

    @functools.wraps(upstream)
    def __init__(self: GraphLowering, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        policy = getattr(bound.arguments["gm"], "meta", {}).get(POLICY_KEY)
        found: Decision | None = NO_CHANGE
        handover = None
        if policy is not None and policy.plans:
            handover = _handover(self, bound.arguments)
            found = _applied(self, bound.arguments, policy, handover)
        upstream(self, *args, **kwargs)
        if policy is None:
            return
        if found is None:
            uncached(_outermost(self))
            return
        if handover is not None and found is not GIVEN_UP:
            _take(self, handover, found, policy)
        if found.store is not None:
            setattr(self, _PLANNED, True)
        if found.changes or policy.name == "traffic":
            keep_outer_loops_apart(self)
        if rounds_casts(found, policy.numerics):
            keep_casts(self)
        keep_switched(self, found.settings)
        if found is GIVEN_UP:
            uncached(_outermost(self))

    return __init__


def patch_graph_lowering_run(upstream: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps ``GraphLowering.run``: what a plan marks is materialized, the rest stays inlined."""

    @functools.wraps(upstream)
    def run(self: GraphLowering, *args: Any) -> Any:
        module = finished(self)
        if module is not None:
            _release(module)
            return None  # as upstream's
        chosen: Any = contextlib.nullcontext()
        if getattr(self, _PLANNED, False):
            chosen = undecided()
        elif getattr(self, "parent", None) is not None:
            chosen = as_stock()  # a body without a plan, whatever the graph that calls it has
        try:
            with chosen, realizing(self):
                return upstream(self, *args)
        finally:
            _release(self.module)

    return run


def _release(module: Any) -> None:
    """Now that a graph is lowered, the hooks that were held for it may go."""
    if activation.release(id(module)):
        remove_if_unneeded()


def _handover(lowering: GraphLowering, arguments: dict[str, Any]) -> Handover | None:
    """What takes trial lowerings for a compile; None for a body and what else we do not know."""
    if type(lowering) is not GraphLowering:
        return None
    try:
        return Handover({k: v for k, v in arguments.items() if k not in ("self", "gm")})
    except Exception as error:  # noqa: BLE001 - a compile never fails because of us
        surprise(_SEAM, error)
        return None


def _take(lowering: GraphLowering, handover: Handover, found: Decision, policy: Policy) -> None:
    """Makes of a lowering the trial lowering of ``found``, if there is one."""
    try:
        if handover.take(lowering, found, policy.numerics):
            log.debug("plan: what ships was lowered already, by the search")
    except Exception as error:  # noqa: BLE001 - a compile never fails because of us
        surprise(_SEAM, error)


def _applied(
    lowering: GraphLowering,
    arguments: dict[str, Any],
    policy: Policy,
    handover: Handover | None,
) -> Decision | None:
    """Plans a graph and prepares it in place; None where that failed: stock lowers it then."""
    module = arguments["gm"]
    # A body is planned while the graph that calls it is lowered, perhaps by a plan.
    with failures() as failed, as_stock():
        try:
            found = _planned(lowering, arguments, policy, failed, handover)
            prepare(module, found, policy.numerics)
        except MemoryBudgetError:
            raise  # what the user wants cannot be had, and that is what is said
        except LoweringError as error:
            # Stock may well fail where its trial lowering did, and that is not ours to report.
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
    lowering: GraphLowering,
    arguments: dict[str, Any],
    policy: Policy,
    failed: Sequence[Exception],
    handover: Handover | None,
) -> Decision:
    """The plan of one graph; stock's where it is out of our reach, or pins ``failed`` meanwhile."""
    reason = _out_of_reach(type(lowering), arguments)
    if reason:
        log.info("plan: left to stock: %s", reason)
        return NO_CHANGE
    # For the bodies of `while_loop` upstream gives the nodes that stand for the inputs.
    inputs = tuple(
        x.meta["val"] if isinstance(x, torch.fx.Node) else x
        for x in arguments["example_inputs"] or ()
    )
    caller, calls = _called(lowering, arguments["gm"])
    graph = PostGrad(
        arguments["gm"],
        inputs,
        V.fake_mode,
        arguments["is_inference"],
        arguments["is_backward"],
        arguments["cpp_wrapper"],
        arguments["aot_mode"],
        caller,
        calls,
        handover,
    )
    limits = limits_for(device_of(inputs))
    found = agreed(graph, policy, functools.partial(_decided, graph, limits, policy))
    if failed:
        log.info("plan: left to stock: a pin could not be lowered")
        return NO_CHANGE
    if isinstance(found, Found):
        announce(graph, policy, found, limits.balance)
    return found


def _decided(graph: PostGrad, limits: Limits, policy: Policy, may_measure: bool) -> Decision:
    """What this process alone decides."""
    kept = from_file(graph, policy)
    if kept is not None:
        return kept
    if policy.name == "tune" and may_measure and not graph.is_body:
        # What it measures it compiles, and it searches with other settings, too.
        chosen = tuned(replace(graph, handover=None), limits, policy)
        if chosen is not None:
            return chosen
    usual = policy.limits == "usual" and policy.peak is None and not has_readers()
    if usual and nothing_to_gain(graph, limits, policy.numerics):
        log.info("plan: %s: stock kept without a trial lowering: nothing to gain", graph.described)
        return NO_CHANGE
    # The bound is only for people to read; without a reader it is not worth its solve, and
    # of repeated layers, not its trial lowerings.
    try:
        return search(graph, limits, policy, certify=detailed())
    except LeftToStockError as error:
        log.warning("plan: a graph of %d nodes: %s", graph.nodes, error)
        # What was counted is so on every machine, and kept in caches like any decision.
        return GIVEN_UP if isinstance(error, OutOfTime) else NO_CHANGE


def _outermost(lowering: GraphLowering) -> GraphLowering:
    """The lowering of the graph that is compiled, of which ``lowering`` may be a body."""
    while isinstance(lowering, SubgraphLowering):
        lowering = lowering.parent
    return lowering


def _called(lowering: GraphLowering, module: torch.fx.GraphModule) -> tuple[str, int]:
    """The operator that calls a body, and how many calls the whole graph has of it.

    Of a graph that is no body "" and 1.
    """
    caller, calls = "", 1
    while isinstance(lowering, SubgraphLowering):
        lowering = lowering.parent
        body = body_of(lowering.module, module)
        # A choice for one operator (`decompose_k`, say) is lowered like a body, too.
        caller = caller or (body.caller if body else "subgraph")
        calls *= body.calls if body else 1
        module = lowering.module
    return caller, calls


def _out_of_reach(kind: type, arguments: dict[str, Any]) -> str:
    """Why a graph cannot be planned, "" where it can."""
    if kind not in (GraphLowering, SubgraphLowering):
        return f"{kind.__name__} is a lowering that we do not know"
    if arguments["is_const_graph"]:
        return "it folds constants and runs once"
    if failed := failed_pass():
        return f"config.{failed} failed"
    fuses = any(_is_lowered(node) for node in arguments["gm"].graph.nodes)
    return "" if fuses else "it calls extern kernels only"


def _is_lowered(node: torch.fx.Node) -> bool:
    """Whether an FX node may become part of a kernel that Inductor writes; a view counts, too."""
    if node.op != "call_function":
        return False
    return node.target in lowering.lowerings and node.target not in lowering.fallbacks
