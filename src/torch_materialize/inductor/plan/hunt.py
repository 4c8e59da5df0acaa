"""The rounds of one search, from stock's kernels to the best plan that was measured."""

from __future__ import annotations

import functools

import torch
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils import _pytree as pytree

from ...core.candidates import Candidates, State
from ...core.cost import computing
from ...core.dag import Dag, Kind, in_delicate, required
from ...core.deadline import Deadline
from ...core.limits import Limits
from ...core.planner import Plan, Together, misplaced, plan
from ...core.policy import STOCK, Policy
from ...core.program import Solved
from ...core.story import Refusal
from ...events import log
from ..fx.casts import held_names
from ..fx.decision import Decision
from ..fx.layers import Shortened
from ..fx.rounding import across, exact_casts, rounds
from ..lower.trial import LoweringError, trial
from .settle import as_cut, settle

__all__ = ["Hunt"]

# Share of the cost that a dry run must save to count as a step forward.
_PROGRESS = 5e-4
# A plan after the first improves on one that is there: it must promise this many times more for
# each dry run that there was.
_AGAIN = 10.0


def _unbacked(module: torch.fx.GraphModule) -> frozenset[str]:
    """Nodes whose size only the data tells, so that there are no bytes to plan with."""
    return frozenset(
        node.name
        for node in module.graph.nodes
        for value in pytree.tree_leaves(node.meta.get("val"))
        if isinstance(value, torch.Tensor) and free_unbacked_symbols(value)
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
        if self._left > self._limits.gap and self._may_go_on(0):
            self._climb_if(self._by_traffic())
        doubted = self._candidates.doubted
        if doubted is not None and self._may_lower_more():
            self._relieve(doubted)
        if self._limits.locally and self._may_lower_more():
            self._begin_locally()
            self._needed_at_once()

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

    @functools.cached_property
    def _local(self) -> Dag:
        """What the local rule makes of the graph."""
        return self._lowered(Decision(casts=self.written), policy=Policy("traffic")).dag

    def _by_traffic(self) -> State | None:
        local = self._local
        store = self.short.spread(local.nodes(local.chosen()) - self._as_stock)
        store |= self._kept | self._needed(local)
        return self._measure(store)

    def _begin_locally(self) -> None:
        """Starts from the local rule's choice where that moves fewer bytes than the best plan."""
        if self._local.measured < self._best.dag.measured * (1 - _PROGRESS):
            self._climb_if(self._by_traffic())

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
            planned = plan(dag, limits, banned, self._solved, self._deadline)
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

    def _promised(self, planned: Plan, dag: Dag, limits: Limits) -> float:
        """What a plan for ``dag`` should take of the best's bytes; of its time, given rates."""
        rates = limits.rates
        if rates is None:
            return planned.predicted / self._best.dag.measured
        best = limits.cost(self._best.dag)
        return (limits.cost(dag) - planned.saves * rates.byte) / best if best else 1.0

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
