"""Plan, try, learn, plan again: the search for what to materialize in one graph.

The integer program plans on the kernels of a dry run; a second dry run tells what Inductor
makes of the plan.  What it materializes unasked and what it does not fuse as planned is
learned, and the next round plans on the new kernels.  The best *measured* result wins
(:mod:`torch_materialize.core.candidates`), and stock unless something is strictly better.
"""

from __future__ import annotations

import time
from dataclasses import replace

from torch._inductor.graph import GraphLowering

from ...core.candidates import State
from ...core.limits import Limits
from ...core.planner import least_bytes
from ...core.policy import STOCK, Policy, parse
from ...core.traffic import traffic
from ..fx.casts import folded, held_names
from ..fx.decision import Decision
from ..fx.layers import shorten
from ..fx.post_grad import PostGrad
from ..lower.trial import lowered, trial
from ..read.kernels import read_scheduled
from .drawn import Drawn
from .hunt import Hunt
from .outcome import Found

__all__ = ["search", "unlike_claimed"]

PLAN = parse("plan")


def search(
    graph: PostGrad, limits: Limits, policy: Policy = PLAN, *, certify: bool = True
) -> Found:
    """Looks for a choice that moves fewer bytes than stock within ``limits``.

    One plan is always tried; more as they promise to help.  ``certify`` asks for the lower bound,
    and for the kernels of the whole graph where repeated layers were left out of the search.

    Raises:
        OutOfTime: the emergency limit of ``limits`` was reached; the graph should be left to stock.
    """
    started = time.monotonic()
    limits = limits if policy.limits == "usual" else limits.strong
    if policy.numerics == "stock":
        graph = folded(graph)
    short = shorten(graph)
    hunt = _kind(policy)(short, limits, policy)
    hunt.run()
    decision, best = hunt.settled()
    found = Found(
        store=None if decision.store is None else short.expand(decision.store),
        rounded=short.expand(decision.rounded),
        marked=short.expand(decision.marked),
        casts=short.expand(decision.casts),
        graph=best.graph,
        stock=hunt.stock.graph,
        dag=best.dag,
        stock_dag=hunt.stock.dag,
        bound=None,
        seconds=time.monotonic() - started,
        rounds=hunt.trials,
        left_out=len(short.copies),
        refused=hunt.refused,
    )
    return _certified(graph, found, hunt, limits, policy) if certify else found


def _kind(policy: Policy) -> type[Hunt]:
    return Drawn if policy.limits == "random" else Hunt


def _certified(graph: PostGrad, found: Found, hunt: Hunt, limits: Limits, policy: Policy) -> Found:
    """``found`` with the kernels of the whole graph, and the least bytes that they allow."""
    after, stock = State(found.store, found.graph, found.dag), hunt.stock
    if found.left_out:
        stock = after = State(None, *trial(graph))
        if found.changes or policy.numerics == "eager":
            after = State(found.store, *trial(graph, found, numerics=policy.numerics))
    start = after if found.store is not None else hunt.start
    if found.left_out and found.store is None and held_names(graph):
        start = State(None, *trial(graph, Decision(casts=held_names(graph))))
    bound = least_bytes(start.dag.with_forced(hunt.short.expand(hunt.forced)), limits)
    return replace(
        found,
        graph=after.graph,
        stock=stock.graph,
        dag=after.dag,
        stock_dag=stock.dag,
        bound=bound,
    )


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
