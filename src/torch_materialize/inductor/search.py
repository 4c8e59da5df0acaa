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
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils import _pytree as pytree

from ..core.candidates import Candidates, State
from ..core.cost import computing
from ..core.dag import Dag, Kind, in_delicate, required
from ..core.graph import Graph
from ..core.limits import Limits
from ..core.planner import Plan, Together, least_bytes, misplaced, plan
from ..core.policy import STOCK, Policy, parse
from ..core.program import Solved
from ..core.story import Refusal
from .decision import Decision
from .garbage import CollectingLater
from .layers import Shortened, shorten
from .narrow import folded, held_names
from .rounding import across, rounds, to_round
from .storage import copied_over
from .trial import PostGrad, trial

__all__ = ["Found", "search"]

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

    One plan is always tried; more as time allows.  ``certify`` asks for the lower bound, and
    for the kernels of the whole graph where repeated layers were left out of the search.
    """
    started = time.monotonic()
    if policy.numerics == "stock":
        graph = folded(graph)
    with CollectingLater() as garbage:
        short = shorten(graph)
        hunt = _Hunt(short, limits, policy, started, garbage)
        best = hunt.run()
    store = None if best.store is None else short.expand(best.store)
    rounded = short.expand(_rounded(short.graph, policy, best.dag))
    chosen = short.expand(best.dag.nodes(best.dag.chosen()) - copied_over(short.graph.module))
    found = Found(
        store=store,
        graph=best.graph,
        stock=hunt.stock.graph,
        dag=best.dag,
        stock_dag=hunt.stock.dag,
        bound=None,
        seconds=time.monotonic() - started,
        rounds=hunt.trials,
        left_out=len(short.copies),
        rounded=rounded,
        marked=(store or frozenset()) | (rounded & chosen),
        casts=(store or frozenset()) | short.expand(hunt.written),
        refused=hunt.refused,
    )
    return _certified(graph, found, hunt, best, limits) if certify else found


def _rounded(graph: PostGrad, policy: Policy, dag: Dag) -> frozenset[str]:
    return to_round(graph.module, dag) if policy.numerics == "stored" else frozenset()


def _certified(graph: PostGrad, found: Found, hunt: _Hunt, best: State, limits: Limits) -> Found:
    """``found`` with the kernels of the whole graph, and the least bytes that they allow."""
    stock = hunt.stock
    if found.left_out:
        unplanned = folded(graph)
        stock = best = State(None, *trial(unplanned, None))
        planned = folded(graph, found.casts)
        if found.store is not None or planned is not unplanned:
            best = State(found.store, *trial(planned, found.store))
    elif found.store is None:
        best = hunt.start
    bound = least_bytes(best.dag.with_forced(hunt.short.expand(hunt.forced)), limits)
    after = stock if found.store is None else best
    return replace(
        found,
        graph=after.graph,
        stock=stock.graph,
        dag=after.dag,
        stock_dag=stock.dag,
        bound=bound,
    )


class _Hunt:
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
        started: float,
        garbage: CollectingLater,
    ) -> None:
        self.short = short
        self._garbage = garbage
        # A choice -> what Inductor was seen to materialize unasked on the way to it.
        self._forced: dict[frozenset[str] | None, set[str]] = {}
        self.trials = 0
        self._limits = limits
        self._deadline = started + limits.seconds
        self._tried: dict[frozenset[str], State] = {}
        self._climbed: set[tuple[frozenset[str] | None, bool]] = set()
        self._solved: Solved = {}
        casts = held_names(short.graph)
        self.stock = self._try(folded(short.graph), None)
        self.start = self._try(short.graph, None) if casts else self.stock
        self.written: frozenset[str] = frozenset()
        as_stock = self.stock
        if policy.numerics == "stored":
            # What is written anyway, or would be at a cut, is what is read, too, though upstream
            # would read past it.
            dag = self.start.dag
            self.written = casts & (dag.nodes(required(dag)) | across(short.graph.module, dag))
            if self.written:
                as_stock = self._try(folded(short.graph, self.written), None)
                if as_stock.dag.measured > self.stock.dag.measured:
                    as_stock, self.written = self.stock, frozenset()
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

    def run(self) -> State:
        """The best of all rounds; :attr:`stock` where nothing is better."""
        self._climb(self.start)
        if self._left > self._limits.gap:
            for start in (self._everything_inlined, self._by_traffic):
                if self._may_go_on(0):
                    self._climb(start())
        doubted = self._candidates.doubted
        if doubted is not None and self._in_time():
            self._relieve(doubted)
        if self._limits.locally and self._in_time():
            if self._local.measured < self._best.dag.measured * (1 - _PROGRESS):
                self._climb(self._by_traffic())
            self._needed_at_once()
        self._hurry()
        return self._best

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
            self._forced.setdefault(after.store, set(self._unasked(after)))

    def _needed_at_once(self) -> None:
        """Tries the best plan with all that is read by others written before they ask.

        An operator gets no copy of an argument then; but kernels may fuse less well.
        """
        best = self._best
        if best.store is None or not self._in_time():
            return
        after = self._measure(best.store | self._needed(best.dag, early=False))
        if after is self._best:
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

    def _everything_inlined(self) -> State:
        return self._measure(self._kept)

    @functools.cached_property
    def _local(self) -> Dag:
        """What the local rule makes of the graph."""
        return self._try(folded(self.short.graph, self.written), None, Policy("traffic")).dag

    def _by_traffic(self) -> State:
        local = self._local
        store = self.short.spread(local.nodes(local.chosen()) - self._as_stock)
        store |= self._kept | self._needed(local)
        return self._measure(store)

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
        return few and self._in_time()

    def _in_time(self) -> bool:
        return time.monotonic() < self._deadline

    def _plan(self, dag: Dag, banned: set[tuple[int, int]], limits: Limits) -> Plan:
        """Bytes cost more than their time where a plan would otherwise move as many as stock."""
        alike, stock = tuple(self._alike(dag)), self.stock.dag.measured
        for surcharge in _SURCHARGES:
            priced = replace(limits, surcharge=surcharge)
            planned = plan(dag, priced, banned, alike, self._solved)
            if limits.rates is None or planned.predicted < stock or not self._in_time():
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

    def _measure(self, store: frozenset[str]) -> State:
        """What Inductor makes of a plan, tried once."""
        if store not in self._tried:
            after = self._try(folded(self.short.graph, store | self.written), store)
            self._tried[store] = after
            self._candidates.offer(after)
        return self._tried[store]

    def _unasked(self, state: State) -> frozenset[str]:
        """What Inductor materializes on its own in a dry run that follows a plan."""
        if state.store is None:
            return frozenset()
        return self.short.spread(state.dag.nodes(state.dag.chosen()) - state.store)

    def _try(self, graph: PostGrad, store: frozenset[str] | None, policy: Policy = STOCK) -> State:
        self.trials += 1
        self._garbage.lowered(graph.nodes)
        return State(store, *trial(graph, store, policy))
