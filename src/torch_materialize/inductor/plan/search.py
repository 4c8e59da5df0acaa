"""The search for what to realize in one graph, and checks of what it found.

How it searches is in :mod:`.rounds`, in one page.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from torch._inductor.graph import GraphLowering

from ...core.candidates import State
from ...core.dag import Dag
from ...core.limits import Limits
from ...core.planner import Plan, least
from ...core.policy import MEMORY, STOCK, Policy, parse, size_from
from ...core.traffic import traffic
from ...errors import MemoryBudgetError
from ..fx.casts import folded, held_names
from ..fx.decision import Decision, with_rounding
from ..fx.layers import Shortened, shorten
from ..fx.post_grad import PostGrad
from ..lower.trial import LoweringError, lowered, trial
from ..read.kernels import read_scheduled
from .drawn import Drawn
from .outcome import Found, Step
from .rounds import Rounds

__all__ = ["replay", "search", "unlike_claimed"]

PLAN = parse("plan")


def search(
    graph: PostGrad, limits: Limits, policy: Policy = PLAN, *, certify: bool = True
) -> Found:
    """Looks for a choice that moves fewer bytes than stock within ``limits``.

    One plan is always tried; more as they promise to help.  ``certify`` adds the lower bound,
    and the kernels of the whole graph where repeated layers were left out of the search.

    Raises:
        OutOfTime: the emergency limit of ``limits`` was reached; the graph should be left to stock.
        TooManyPairs: scheduling the graph once is too dear; it should be left to stock, too.
        MemoryBudgetError: no choice keeps to the peak memory that ``policy`` allows.
    """
    started = time.monotonic()
    limits = limits if policy.limits == "usual" else limits.strong
    limits = _with_peak(limits, graph, policy)
    if policy.numerics == "stock":
        graph = folded(graph)
    # What is alive at once is that of all layers.
    short = shorten(graph) if limits.peak is None else Shortened(graph)
    rounds = (Drawn if policy.limits == "random" else Rounds)(short, limits, policy)
    rounds.run()
    decision, best = rounds.settled()
    trials = rounds.trials
    if not trials.candidates.fits:
        raise MemoryBudgetError(_out_of_reach(graph, policy, trials.candidates.least_peak))
    found = Found(
        store=None if decision.store is None else short.expand(decision.store),
        rounded=short.expand(decision.rounded),
        marked=short.expand(decision.marked),
        casts=short.expand(decision.casts),
        graph=best.graph,
        stock=trials.stock.graph,
        dag=best.dag,
        stock_dag=trials.stock.dag,
        bound=None,
        seconds=time.monotonic() - started,
        rounds=len(trials.steps),
        left_out=len(short.copies),
        refused=trials.candidates.refused,
        steps=tuple(trials.steps),
    )
    return _certified(graph, found, rounds, limits, policy) if certify else found


def _certified(
    graph: PostGrad, found: Found, rounds: Rounds, limits: Limits, policy: Policy
) -> Found:
    """``found`` with the kernels of the whole graph, and the least bytes that they allow."""
    after, stock = State(found.store, found.graph, found.dag), rounds.trials.stock
    if found.left_out:
        stock = after = State(None, *trial(graph))
        if found.changes or policy.numerics == "eager":
            after = State(found.store, *trial(graph, found, numerics=policy.numerics))
    # Stock's choice rounded, or written where it crosses, may come to fewer bytes in other kernels.
    starts = [after] if found.changes else []
    if found.store is None:
        starts.append(_start(graph, stock) if found.left_out else rounds.trials.start)
    forced = rounds.trials.short.expand(rounds.forced)
    dags = [one.dag.with_forced(forced) for one in starts]
    planned, dag = min(((least(one, limits), one) for one in dags), key=lambda two: two[0].bound)
    moves, unfused = traffic(after.graph).bytes, 0
    if moves > planned.bound * (1 + limits.worth):
        unfused = _unfused(graph, rounds, planned, dag, moves)
    return replace(
        found,
        graph=after.graph,
        stock=stock.graph,
        dag=after.dag,
        stock_dag=stock.dag,
        bound=planned.bound,
        unfused=unfused,
    )


def _unfused(graph: PostGrad, rounds: Rounds, planned: Plan, dag: Dag, moved: int) -> int:
    """Bytes that a plan for ``dag`` moves more than it foresees when it is lowered, up to what is
    ``moved``; 0 where it cannot be lowered.
    """
    numerics = rounds.trials.numerics
    decision = rounds.reaching(dag, planned)
    if numerics == "stored":
        decision = with_rounding(graph.module, decision, dag.with_homes(planned.homes))
    try:
        after, _ = trial(graph, decision, numerics=numerics)
    except LoweringError:
        return 0
    return max(min(traffic(after).bytes, moved) - planned.predicted, 0)


def _start(graph: PostGrad, stock: State) -> State:
    """The whole graph as :attr:`.Trials.start` is of one without most of its layers."""
    casts = held_names(graph)
    return State(None, *trial(graph, Decision(casts=casts))) if casts else stock


def _with_peak(limits: Limits, graph: PostGrad, policy: Policy) -> Limits:
    """``limits`` with the peak memory that a policy allows.

    A half of a training step keeps to stock's: the partitioner saw to it that this is low enough.
    The body of an operator is only a part of what the limit is for.
    """
    if policy.peak is None or graph.is_body:
        return limits
    if not graph.is_inference:
        return replace(limits, peak_share=0.0)
    return replace(limits, peak=policy.peak)


def _out_of_reach(graph: PostGrad, policy: Policy, least: int) -> str:
    return (
        f"{MEMORY}={policy.settings[MEMORY]} cannot be had for a graph of {graph.nodes} nodes: at "
        f"least {least / 1e6:.1f} MB are alive at once, inputs and outputs counted. Name "
        f"{MEMORY}={size_from(least)} or more, or a smaller batch."
    )


def replay(graph: PostGrad, found: Found) -> Iterator[tuple[Step, Step]]:
    """Makes the trial lowerings of a search again: each step as logged, and as measured now.

    Those that Inductor could not lower are left out.
    """
    short = shorten(graph) if found.left_out else Shortened(graph)
    for step in found.steps:
        if step.kernels < 0:
            continue
        again, _ = trial(short.graph, step.decision, numerics=step.numerics, policy=step.policy)
        now = traffic(again)
        yield step, step.measured(now.bytes, now.kernels)


def unlike_claimed(graph: PostGrad, found: Found, policy: Policy) -> str:
    """What differs between a certified claim and the graph as it is lowered for it; "" if nothing.

    Lowered and scheduled as a compile does it, by upstream's own class and for the whole graph.

    Raises:
        LoweringError: it cannot be lowered so.
    """
    with lowered(graph, found, policy.numerics, STOCK, GraphLowering):
        real = traffic(read_scheduled())
    claimed = traffic(found.graph)
    if (real.bytes, real.kernels) == (claimed.bytes, claimed.kernels):
        return ""
    return (
        f"claimed {claimed.bytes} bytes in {claimed.kernels} kernels; lowered it moves "
        f"{real.bytes} bytes in {real.kernels}"
    )
