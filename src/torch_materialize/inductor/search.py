"""Plan, try, learn, plan again: the search for what to materialize in one graph.

The integer program plans on the kernels of a dry run; a second dry run tells what Inductor
makes of the plan.  What it materializes unasked and what it does not fuse as planned is
learned, and the next round plans on the new kernels.  The best *measured* result wins
(:mod:`torch_materialize.core.candidates`), and stock unless something is strictly better.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch._inductor.graph import GraphLowering
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils import _pytree as pytree

from ..core.candidates import Candidates, State
from ..core.cost import computing
from ..core.dag import Dag, Kind, in_delicate, required
from ..core.deadline import Deadline
from ..core.graph import Graph
from ..core.limits import Limits
from ..core.planner import Plan, Together, least_bytes, misplaced, plan
from ..core.policy import STOCK, Policy, parse
from ..core.program import Solved
from ..core.story import Refusal
from ..core.traffic import traffic
from ..events import log
from .decision import Decision
from .layers import Shortened, shorten
from .narrow import folded, held_names
from .post_grad import PostGrad
from .reader import read_scheduled
from .rounding import across, exact_casts, rounds
from .settle import as_cut, settle
from .trial import LoweringError, lowered, trial

__all__ = ["Found", "Hunt", "search", "unlike_claimed"]

PLAN = parse("plan")

# Share of the cost that a dry run must save to count as a step forward.
_PROGRESS = 5e-4
# What a byte costs besides its time, in bytes, until a plan moves fewer than stock.
_SURCHARGES = (0.0, 0.5, 2.0, 8.0)
# A plan after the first improves on one that is there: it must promise this many times more for
# each dry run that there was.
_AGAIN = 10.0


@dataclass(frozen=True, kw_only=True)
class Found(Decision):
    """The outcome of one search.

    Attributes:
        graph: the kernels of the outcome, from a dry run.
        stock: the kernels of stock.
        dag: the planner's view of the outcome, from the same dry run as ``graph``.
        stock_dag: the same of ``stock``.
        bound: certified lower bound in bytes, with the outcome's kernels, their order and
            their required outputs held fixed; None where it was not asked for.
        seconds: wall time of the search, without what ``certify`` added.
        rounds: dry runs made.
        left_out: nodes of repeated layers that were decided like their counterparts;
            ``graph``, ``dag`` and ``stock`` are without them, unless ``certify`` was asked for.
        refused: better plans that a rule kept from being taken; without ``left_out``, too.
    """

    graph: Graph
    stock: Graph
    dag: Dag
    stock_dag: Dag
    bound: float | None
    seconds: float
    rounds: int
    left_out: int = 0
    refused: tuple[Refusal, ...] = ()


def _unbacked(module: torch.fx.GraphModule) -> frozenset[str]:
    """Nodes whose size only the data tells, so that there are no bytes to plan with."""
    return frozenset(
        node.name
        for node in module.graph.nodes
        for value in pytree.tree_leaves(node.meta.get("val"))
        if isinstance(value, torch.Tensor) and free_unbacked_symbols(value)
    )


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
    if policy.limits != "random":
        return Hunt
    from .drawn import Drawn  # which is made of this module

    return Drawn


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


class Hunt:
    """The rounds of one search, from stock's kernels to the best that was measured.

    Attributes:
        stock: what stock makes of the graph.
        start: the kernels of the graph that is planned; those of stock, except where held
            casts make it another graph.
        trials: dry runs made.
    """

    def __init__(
        self,
        short: Shortened,
        limits: Limits,
        policy: Policy,
    ) -> None:
        self.short = short
        # A choice -> what Inductor was seen to materialize unasked on the way to it.
        self._forced: dict[frozenset[str] | None, set[str]] = {}
        self.trials = 0
        self._limits = limits
        self._deadline = Deadline(limits.emergency)
        self._nodes = 0  # lowered by dry runs
        self._tried: dict[frozenset[str], State | None] = {}
        self._climbed: set[tuple[frozenset[str] | None, bool]] = set()
        self._solved: Solved = {}
        self.numerics = policy.numerics
        casts = held_names(short.graph)
        self.stock = self._lowered(Decision(), numerics="")
        self.start = self._lowered(Decision(casts=casts)) if casts else self.stock
        self.written: frozenset[str] = frozenset()
        as_stock = self.stock
        if policy.numerics == "stored":
            # What is written anyway, or would be at a cut, is what is read, too, though upstream
            # would read past it.
            dag = self.start.dag
            self.written = casts & (dag.nodes(required(dag)) | across(short.graph.module, dag))
            if self.written:
                as_stock = self._lowered(Decision(casts=self.written))
                if as_stock.dag.measured > self.stock.dag.measured:
                    as_stock, self.written = self.stock, frozenset()
        elif policy.numerics == "eager" and exact_casts(short.graph.module):
            as_stock = self._lowered(Decision())
        self._as_stock = _unbacked(short.graph.module)
        self._bitwise = policy.numerics == "stock"
        if self._bitwise:
            self._as_stock |= rounds(short.graph.module, self.stock.dag)
            self._as_stock |= in_delicate(self.stock.dag)
        self._kept = self._as_stock & self.start.dag.nodes(self.start.dag.chosen())
        self._candidates = Candidates(self.stock, as_stock, limits, self._bitwise)
        # Share of the best's bytes that seems to be left to save; all of them, before any plan.
        self._left = 1.0

    @property
    def forced(self) -> frozenset[str]:
        """Nodes that Inductor was seen to materialize unasked, on the way to the best."""
        return frozenset(self._forced.get(self._best.store, ()))

    @property
    def refused(self) -> tuple[Refusal, ...]:
        """Better plans than the best, and the rules that kept them from being taken."""
        return self._candidates.refused

    @property
    def _best(self) -> State:
        return self._candidates.best

    def run(self) -> None:
        """Tries plans; the best of them is :meth:`settled`."""
        self._climb(self.start)
        if self._left > self._limits.gap:
            for start in (self._everything_inlined, self._by_traffic):
                if self._may_go_on(0):
                    self._climb_if(start())
        doubted = self._candidates.doubted
        if doubted is not None and self._may_lower_more():
            self._relieve(doubted)
        if self._limits.locally and self._may_lower_more():
            if self._local.measured < self._best.dag.measured * (1 - _PROGRESS):
                self._climb_if(self._by_traffic())
            self._needed_at_once()
        self._hurry()

    def _hurry(self) -> None:
        """Looks for a plan that should take less time than the best, beyond any doubt.

        Until here a search goes by bytes, where rates do no more than doubt.  It ends at a plan
        that should be faster and moves more bytes than stock.
        """
        limits, doubts = self._limits.by_time, self._limits.doubts
        if limits is not None and doubts is not None:
            self._left = 1.0
            start = self.start if self._best.store is None else self._best
            self._climb(start, replace(limits, worth=doubts.error))

    def _relieve(self, state: State) -> None:
        """Tries a plan that was refused for its time with less to compute.

        What stock writes is written where a kernel of the plan would be longer at computing it
        than at all of its bytes.
        """
        stock = self.stock.dag
        if state.store is not None and self._limits.doubts is not None:
            again = computing(state.dag, self._limits.doubts) & stock.nodes(stock.homes())
            after = self._measure(state.store | self.short.spread(again))
            if after is not None:
                self._forced.setdefault(after.store, set(self._unasked(after)))

    def _needed_at_once(self) -> None:
        """Tries the best plan with all that is read by others written before they ask.

        An operator gets no copy of an argument then; but kernels may fuse less well.
        """
        best = self._best
        if best.store is None or not self._may_lower_more():
            return
        after = self._measure(best.store | self._needed(best.dag, early=False))
        if after is not None and after is self._best:
            self._climb(after)

    def _needed(self, dag: Dag, *, early: bool = True) -> frozenset[str]:
        """What a dry run wrote, or wrote ``early``, and something besides fused kernels reads.

        It is marked, too: unmarked it may stay inlined until a copy of it is made for that reader,
        expanded to all heads, say, and the kernels would not be those that were planned with.
        What only its reader made a buffer (a part of a concatenation, say) is left to it again.
        """
        homes = dag.homes()
        values = [dag.values[i] for i in required(dag) if i in homes]
        chosen = (v.index for v in values if v.kind is Kind.POINTWISE and (v.early or not early))
        return self.short.spread(dag.nodes(chosen))

    # Where a search starts decides where it may end.

    def _everything_inlined(self) -> State | None:
        return self._measure(self._kept)

    @functools.cached_property
    def _local(self) -> Dag:
        """What the local rule makes of the graph."""
        return self._lowered(Decision(casts=self.written), policy=Policy("traffic")).dag

    def _by_traffic(self) -> State | None:
        local = self._local
        store = self.short.spread(local.nodes(local.chosen()) - self._as_stock)
        store |= self._kept | self._needed(local)
        return self._measure(store)

    def _climb_if(self, start: State | None) -> None:
        if start is not None:
            self._climb(start)

    def _climb(self, start: State, limits: Limits | None = None) -> None:
        """Plans, tries and learns until nothing better is found from ``start``.

        Once from it by time and once by bytes, as ``limits`` say.
        """
        limits = limits or self._limits
        if (start.store, limits.rates is None) in self._climbed:
            return
        self._climbed.add((start.store, limits.rates is None))
        current = start
        banned: set[tuple[int, int]] = set()
        failed = 0
        # It depends on what is decided besides, so another start knows nothing of it.
        forced = set(self._unasked(current))
        self._forced.setdefault(current.store, forced)
        while self._may_go_on(failed):
            dag = current.dag.with_forced(frozenset(forced))
            dag = dag.with_stocks(self._as_stock, self._kept)
            if self._bitwise:
                dag = dag.with_delicate_closed()
            planned = self._plan(dag, banned, limits)
            if not self._best.dag.measured:
                self._left = 0.0
                break  # only views, or kernels of others: nothing is left to save
            # What was learned from a refusal may show more than the plan promises.
            if not banned:
                self._left = 1 - self._promised(planned, dag, limits)
                if self._left < limits.worth or not self._may_go_on(failed):
                    break
            store = self.short.spread(dag.nodes(planned.store)) | self._kept | self._needed(dag)
            after = self._measure(store)
            if after is None:
                break
            self._forced.setdefault(store, forced)
            news = self._unasked(after) - forced
            forced |= news
            now, then = limits.cost(after.dag), limits.cost(dag)
            if now < then * (1 - _PROGRESS):
                if limits.rates is not None and after.dag.measured >= self.stock.dag.measured:
                    # However fast it should be, it is not taken.
                    self._go_on_by_bytes(after, start)
                    break
                current, banned, failed = after, set(), 0
                if self._limits.node_bytes:  # each solve is dear, too: is the rest worth one?
                    self._left -= 1 - now / then
                continue
            failed += 1
            wrong = misplaced(dag, planned.homes, Together(dag, after.dag))
            if wrong <= banned and not news:
                break  # nothing was learned
            banned |= wrong

    def _go_on_by_bytes(self, *starts: State) -> None:
        """Climbs by bytes from the first of some kernels that lead to anything better."""
        if self._limits.rates is None:
            return  # that is what was done before
        best, left = self._best, self._left
        for start in starts:
            if self._best is best:
                self._left = left
                self._climb(start, self._limits.only_bytes)

    def _may_go_on(self, failed: int) -> bool:
        """The first plan is tried if it may save anything worth it, more as long as they help.

        A dry run takes as long as the graph is large, so what it must promise grows with that.
        """
        promised = self._limits.worth_bytes(self._left, self._best.dag)
        least = self._limits.node_bytes * self.short.graph.nodes
        if not self._tried:
            return promised >= least
        if promised < max(self._limits.least_bytes, _AGAIN * least * len(self._tried)):
            return False
        few = failed < self._limits.patience and len(self._tried) < self._limits.rounds
        return few and self._may_lower_more()

    def _may_lower_more(self) -> bool:
        return self._nodes < self._limits.lowered

    def _plan(self, dag: Dag, banned: set[tuple[int, int]], limits: Limits) -> Plan:
        """Bytes cost more than their time where a plan would otherwise move as many as stock."""
        alike, stock = tuple(self._alike(dag)), self.stock.dag.measured
        for surcharge in _SURCHARGES:
            priced = replace(limits, surcharge=surcharge)
            planned = plan(dag, priced, banned, alike, self._solved, self._deadline)
            if limits.rates is None or planned.predicted < stock:
                break
        return planned

    def _promised(self, planned: Plan, dag: Dag, limits: Limits) -> float:
        """What a plan for ``dag`` should take of the best's bytes; of its time, given rates."""
        rates = limits.rates
        if rates is None:
            return planned.predicted / self._best.dag.measured
        best = limits.cost(self._best.dag)
        return (limits.cost(dag) - planned.saves * rates.byte) / best if best else 1.0

    def _alike(self, dag: Dag) -> Iterator[tuple[int, ...]]:
        """The values that stand for counterparts in repeated layers."""
        index = {value.node: value.index for value in dag.values if value.node}
        for names in self.short.alike:
            values = tuple(index[name] for name in names if name in index)
            if len(values) > 1:
                yield values

    def _measure(self, store: frozenset[str]) -> State | None:
        """What Inductor makes of a plan, tried once; None where it makes nothing of it."""
        if store not in self._tried:
            after = self._attempt(self._unrounded(store))
            self._tried[store] = after
            if after is not None:
                self._candidates.offer(after)
        return self._tried[store]

    def settled(self) -> tuple[Decision, State]:
        """The best plan with its roundings, and its dry run; to be asked last."""

        def unrounded(state: State) -> Decision:
            return self._unrounded(state.store)

        found, module = (unrounded(self._best), self._best), self.short.graph.module
        rounding = self.numerics == "stored"
        if rounding:
            found = settle(module, self._candidates, self.stock, unrounded, self._attempt)
        if self._bitwise or not self._may_lower_more():
            return found
        return as_cut(module, *found, self._candidates, self._attempt, rounding=rounding)

    def _unrounded(self, store: frozenset[str] | None) -> Decision:
        marked = store or frozenset()
        return Decision(store=store, marked=marked, casts=marked | self.written)

    def _unasked(self, state: State) -> frozenset[str]:
        """What Inductor materializes on its own in a dry run that follows a plan."""
        if state.store is None:
            return frozenset()
        return self.short.spread(state.dag.nodes(state.dag.chosen()) - state.store)

    def _attempt(self, decision: Decision) -> State | None:
        """A dry run of a plan; None where Inductor cannot lower the graph so."""
        try:
            return self._lowered(decision)
        except LoweringError as error:
            log.info("plan: a plan is dropped, since Inductor cannot lower it: %s", error)
            return None

    def _lowered(
        self, decision: Decision, policy: Policy = STOCK, numerics: str | None = None
    ) -> State:
        self._deadline.check()
        self.trials += 1
        self._nodes += self.short.graph.nodes
        how = self.numerics if numerics is None else numerics
        found = trial(self.short.graph, decision, numerics=how, policy=policy)
        return State(decision.store, *found)
