"""Plan files made for a device that need not be there, and what they come to."""

from __future__ import annotations

from collections import Counter

from torch._inductor import config

from ...core.devices import Device
from ...core.graph import Graph
from ...core.limits import limits_for
from ...core.policy import Policy
from ...errors import RecordError
from ...results.plan_claims import GraphClaim, LineBytes
from ...results.plan_file import PlanFile, Plans
from ...results.source_text import relative_source, text_at
from ...versions import implementation, installed_versions
from ..fx.canonical import Canonical, canonical
from ..fx.decision import NO_CHANGE
from ..fx.post_grad import PostGrad
from ..fx.rounding import emulation
from ..lower.trial import TooManyPairs, trial
from ..lower.virtual_gpu import planned_device
from ..plan.plan_files import (
    checked,
    decision_of,
    is_of_this_torch,
    moved,
    nodes_of,
    without_findings,
)
from ..plan.plan_key import plan_key
from ..plan.search import search
from .dry_run import hooks_for

__all__ = ["claimed", "plan_of"]


def plan_of(
    graph: PostGrad, policy: Policy, device: Device, known: Plans | None = None
) -> tuple[PlanFile, Graph]:
    """The plan file for a graph, and the kernels that it leads to.

    A file that is ``known`` for the graph and comes to what it claims is taken; else it is made by
    a search.

    Raises:
        UnsupportedTorchError: the policy cannot be applied to this torch.
        Exception: whatever Inductor raises while lowering.
    """
    form = canonical(graph.module)
    key = plan_key(form, graph, policy, device)
    with planned_device(device), config.patch(emulation(policy)), hooks_for(policy):
        found = _known(graph, form, policy, known, key)
        return found or _searched(graph, form, policy, device, key)


def _searched(
    graph: PostGrad, form: Canonical, policy: Policy, device: Device, key: str
) -> tuple[PlanFile, Graph]:
    try:
        found = search(graph, limits_for(device), policy)
    except TooManyPairs:
        # So on every machine: a compile that finds this file need not count.
        decision, bound = NO_CHANGE, None
        (stock, _), (ours, _) = trial(graph), trial(graph, numerics=policy.numerics)
    else:
        decision, bound = without_findings(found), found.bound
        stock, ours = found.stock, found.graph
    plan = PlanFile(
        key=key,
        kind=graph.kind,
        nodes=len(form.nodes),
        device=device.name,
        policy=str(policy),
        versions=_versions(),
        check=checked(graph, decision, policy),
        stock=moved(stock),
        plan=moved(ours),
        bound=bound,
        planned=decision.store is not None,
        decisions=nodes_of(form, decision),
    )
    return plan, ours


def _known(
    graph: PostGrad, form: Canonical, policy: Policy, known: Plans | None, key: str
) -> tuple[PlanFile, Graph] | None:
    """A plan that was made before, lowered for the whole graph; None if that is not as claimed."""
    try:
        plan = known.find(key) if known is not None else None
    except RecordError:
        return None
    decision = decision_of(plan, form) if plan is not None else None
    if plan is None or decision is None or not is_of_this_torch(plan):
        return None
    lowered, _ = trial(graph, decision if decision.changes else NO_CHANGE, numerics=policy.numerics)
    return (plan, lowered) if moved(lowered) == plan.plan else None


def claimed(graph: PostGrad, plan: PlanFile, kernels: Graph, index: int) -> GraphClaim:
    """What a graph moves as planned, and which of the model's lines move it."""
    lines, now = _lines(kernels), moved(kernels)
    return GraphClaim(plan.kind, index, plan.key, now, lines, graph.caller, graph.calls)


def _lines(graph: Graph) -> tuple[LineBytes, ...]:
    """Bytes by the line that made what is read or written; inputs, which none made, come last."""
    found: Counter[str] = Counter()
    for kernel in graph.fused():
        for sizes in (kernel.reads, kernel.writes):
            for name, size in sizes.items():
                tensor = graph.tensors.get(name)
                found["" if tensor is None else tensor.source] += size
    ordered = sorted(found.items(), key=lambda pair: (not pair[0], -pair[1], pair[0]))
    return tuple(LineBytes(relative_source(line), text_at(line), size) for line, size in ordered)


def _versions() -> dict[str, str]:
    versions = installed_versions()
    return {**versions, "torch-materialize": implementation()}
