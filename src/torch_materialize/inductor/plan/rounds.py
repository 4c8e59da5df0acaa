"""The rounds of one search: plan on measured kernels, lower the plan, learn, plan again.

In one page.  Every trial lowering is a candidate; the best that was measured is taken, and stock
where none is better (:mod:`torch_materialize.core.candidates`).

1. From stock's kernels an integer program chooses what to realize, and the choice is lowered: with
   the roundings that it needs (``numerics``), and with all realized at once that something besides
   fused kernels reads.  For inference on a CPU it begins from stock's choice with what crosses an
   opaque operator written, as the graph's pieces write it, and what a reader would copy for each of
   its operands, or that of it which saves bytes; what moves more is not taken then.  Where a choice
   moves more than the program foresaw, it is lowered without the roundings, too, and with less
   realized at once.
2. What Inductor realized unplanned is forced from then on; a fusion that it did not make is banned.
   The program is solved again: on the new kernels where they cost less, else on the old ones with
   what was learned.  It ends when nothing is learned, when two lowerings in a row gained nothing,
   when too little seems to be left, or when that is not worth the launches of so many kernels.
3. A plan that a rule refuses for its predicted time alone is lowered once more with some of what
   stock writes written, where its kernels compute for longer than they move bytes.
4. Where much seems to be left, 1 and 2 again from everything inlined.  On a GPU 1 and 2 also with
   kernels that compute more on the side, and where these leave anything open, from the local rule's
   choice if it moves fewer bytes than the best plan and may be taken.
5. Where the best needs other roundings than it was lowered with, it is lowered with those, and 1
   and 2 go on from there, until nothing changes.  For inference on a CPU what crosses an opaque
   operator is written in the end where that costs no bytes (:mod:`.settle`).

What each of these gains is in ``docs/results/search.md``.
"""

from __future__ import annotations

import functools
from dataclasses import replace

from ...core.candidates import State
from ...core.cost import computing
from ...core.dag import Dag, Kind, required, written_again
from ...core.limits import Limits
from ...core.planner import Plan, Together, misplaced, plan
from ...core.policy import Policy
from ...core.program import Solved
from ..fx.decision import Decision
from ..fx.layers import Shortened
from .settle import as_cut, settle
from .trials import Trials

__all__ = ["Rounds"]

# Share of the cost that a trial lowering must save to count as a step forward.
_PROGRESS = 5e-4
# A plan after the first improves on one that is there: it must promise this many times more for
# each trial lowering that there was.
_AGAIN = 10.0


class Rounds:
    """One search.

    Attributes:
        trials: what was lowered, and the best of it.
    """

    def __init__(self, short: Shortened, limits: Limits, policy: Policy) -> None:
        self.trials = Trials(short, limits, policy)
        # Where stock takes too much memory, whatever takes less is worth its trial lowerings.
        self._limits = limits if self.trials.candidates.fits else limits.patient
        # A choice -> what Inductor was seen to realize unplanned on the way to it.
        self._forced: dict[frozenset[str] | None, set[str]] = {}
        self._climbed: set[tuple[object, ...]] = set()
        self._relieved: set[frozenset[str]] = set()
        self._solved: Solved = {}
        self._bare_is_no_better = self._went_on_by_bytes = False
        # Share of the best's bytes that seems to be left to save; all of them, before any plan.
        self._left = 1.0
        # A trial lowering that may ship as it is -> its decision, and itself.
        self._shipped: dict[int, tuple[Decision, State]] = {}
        self._start = self._as_pieces() or self.trials.start

    def _as_pieces(self) -> State | None:
        """Stock's choice with what crosses opaque operators written where that moves fewer bytes.

        That is what the graph moves in pieces.  Plans that begin elsewhere may miss it, since to go
        on is not worth the seconds that it would save; and from here most have nothing to add.
        """
        trials = self.trials
        if not self._writes_as_pieces:
            return None
        bare = trials.without_plan
        decision, state = self._as_cut(trials.decision(None), bare, better=True)
        if state is bare:
            return None
        self._shipped[id(state)] = decision, state
        trials.candidates.begin_with(state)
        return state

    @property
    def forced(self) -> frozenset[str]:
        """Nodes that Inductor was seen to realize unplanned, on the way to the best."""
        return frozenset(self._forced.get(self.trials.best.store, ()))

    def run(self) -> None:
        """Tries plans; the best of them is :meth:`settled`."""
        trials, limits = self.trials, self._limits
        self._climb(self._start)
        self._relieve()
        if self._left > limits.gap and self._is_worth_trying(0):
            self._climb_if(self._everything_inlined())
        self._relieve()
        if limits.locally and trials.tried:
            self._look_further()
            self._begin_locally()

    def reaching(self, dag: Dag, planned: Plan) -> Decision:
        """What a plan for the kernels ``dag`` wants to be realized, not rounded yet."""
        trials = self.trials
        store = trials.short.expand(dag.nodes(planned.store) | trials.kept)
        decision = trials.decision(store | self._needed(dag))
        return replace(decision, casts=trials.short.expand(decision.casts))

    def settled(self) -> tuple[Decision, State]:
        """The best plan with its roundings, and its trial lowering; to be called last."""
        trials = self.trials
        module = trials.short.graph.module

        def unrounded(state: State) -> Decision:
            return trials.decision(state.store)

        attempt = functools.partial(trials.attempt, "with roundings")
        shipped = self._shipped
        found = shipped.get(id(trials.best)) or (unrounded(trials.best), trials.best)
        if trials.numerics == "stored":
            ship = functools.partial(settle, module, trials.candidates, trials.stock)
            before, found = None, ship(unrounded, attempt, shipped)
            while found[1] is not before and found[1].store is not None and trials.may_go_on:
                before = found[1]
                self._go_on(before)
                found = ship(unrounded, attempt, shipped)
        return self._as_cut(*found) if self._writes_as_pieces else found

    @property
    def _writes_as_pieces(self) -> bool:
        """Whether what crosses an opaque operator is to be written where that costs no bytes.

        Not in the halves of a training step: of three models run whole and in pieces none gave
        other bits without it, and of eight halves one moved fewer bytes with it, for half as many
        more trial lowerings.
        """
        trials = self.trials
        as_pieces = self._limits.as_pieces and trials.short.graph.is_inference
        return as_pieces and not trials.bitwise and trials.may_go_on

    def _as_cut(
        self, decision: Decision, state: State, *, better: bool = False
    ) -> tuple[Decision, State]:
        trials = self.trials
        return as_cut(
            trials.short.graph.module,
            decision,
            state,
            trials.candidates,
            functools.partial(trials.attempt, "written where it crosses"),
            rounding=trials.numerics == "stored",
            better=better,
        )

    # Where a search starts decides where it may end.

    def _everything_inlined(self) -> State | None:
        return self.trials.measure("everything inlined", self.trials.kept)

    def _look_further(self) -> None:
        """Goes on from the best plan with kernels that compute more on the side."""
        self._left = 1.0  # known only of kernels that reach less far
        self._climb(self.trials.best, self._limits.widest)

    def _go_on(self, settled: State) -> None:
        """Goes on from what is to ship, whose kernels may differ from those that it was planned on.

        From a Mamba's kernels as they were rounded one more plan saved 5% of the bytes.
        """
        limits = self._limits.widest if self._limits.locally else self._limits
        self._left = 1.0  # known only of the kernels before
        self._climb(settled, limits.only_bytes if self._went_on_by_bytes else limits)

    def _begin_locally(self) -> None:
        """Starts from the local rule's choice where that moves fewer bytes than the best plan.

        It is lowered only where kernels that reach further seem to leave something to save.  It may
        write less than the best, too: an SD U-Net's moves 0.4% fewer bytes for that.
        """
        trials = self.trials
        if self._left < _PROGRESS or not trials.may_go_on:
            return
        local = trials.local
        if local.measured >= trials.best.dag.measured * (1 - _PROGRESS):
            return
        if not trials.candidates.pays(local.measured, len(local.kernels)):
            return
        store = trials.short.spread(local.nodes(local.chosen()) - trials.as_stock) | trials.kept
        why = "the local rule's choice"
        self._climb_if(self._lowered(why, store, local, local, local.measured, again=True))

    def _relieve(self) -> None:
        """Tries a plan that is too slow with less to compute: some of what stock writes is written.

        That is what the kernels compute that compute for longer than they move bytes, the slowest
        first, and of as many as should make up for twice the seconds that are too many.
        """
        trials, rates = self.trials, self._limits.refusing_rates
        slow = trials.candidates.slow
        if rates is None or slow is None or slow.store is None or slow.store in self._relieved:
            return
        self._relieved.add(slow.store)
        stock, left = trials.stock.dag, 2 * trials.candidates.too_long(slow)
        again: set[int] = set()
        for saved, one in computing(slow.dag, rates):
            again |= one.computes if left > 0 else set()
            left -= saved
        written = slow.dag.nodes(again) & stock.nodes(stock.homes()) - slow.store
        if not written or not trials.may_go_on:
            return
        store = slow.store | trials.short.spread(written)
        after = trials.measure("a slow plan, less recomputed", store, slow.dag, slow.promised)
        if after is not None:
            self._forced.setdefault(store, set(trials.unplanned(after)))
        if after is trials.best and slow.promised:
            self._left = max(1 - slow.promised / after.dag.measured, 0.0)

    def _needed(self, dag: Dag, late: bool = True) -> frozenset[str]:
        """What a lowering wrote, and something besides fused kernels reads; all of it if ``late``.

        It is marked, too: unmarked it may stay inlined until a copy of it is made for that reader,
        expanded to all heads, say, and the kernels would not be those that were planned with.
        What lies in another's memory (a part of a concatenation, say) is left to its reader again.
        Without ``late`` what became a buffer only for that reader is left to it, too: marked, a
        fused kernel that computed it anew would read it.
        """
        homes = dag.homes()
        values = [dag.values[i] for i in required(dag) if i in homes]
        chosen = (
            v.index
            for v in values
            if v.kind is Kind.POINTWISE and v.memory < 0 and (late or v.early)
        )
        return self.trials.short.spread(dag.nodes(chosen))

    def _climb_if(self, start: State | None) -> None:
        if start is not None:
            self._climb(start)

    def _climb(self, start: State, limits: Limits | None = None) -> None:
        """Plans, lowers and learns until nothing better is found from ``start``.

        Once from it by time and once by bytes, as ``limits`` say.
        """
        trials, limits = self.trials, limits or self._limits
        key = start.store, start.marked, start.rounded, limits.rates is None, limits.further
        if key in self._climbed:
            return
        self._climbed.add(key)
        current = start
        banned: set[tuple[int, int]] = set()
        failed = 0
        # It depends on what is decided besides, so another start knows nothing of it.
        forced = set(trials.unplanned(current))
        self._forced.setdefault(current.store, forced)
        while self._is_worth_trying(failed):
            dag = self._to_plan(current.dag, forced)
            planned = plan(dag, limits, banned, self._solved, trials.deadline)
            # What was learned from a refusal may show more than the plan promises.
            if not banned and not self._promises(planned, dag, limits, failed):
                break
            store = trials.short.spread(dag.nodes(planned.store)) | trials.kept
            like, lowerings = current.dag.with_homes(planned.homes), len(trials.steps)
            after = self._lowered("a plan", store, dag, like, planned.predicted)
            if after is None:
                break
            self._forced.setdefault(after.store, forced)
            news = trials.unplanned(after) - forced
            forced |= news
            now, then = limits.cost(after.dag), limits.cost(dag)
            if now < then * (1 - _PROGRESS):
                if limits.rates is not None and after.dag.measured >= trials.stock.dag.measured:
                    # However fast it should be, it is not taken.
                    self._go_on_by_bytes(after, start)
                    break
                current, banned, failed = after, set(), 0
                if self._limits.node_bytes:  # each solve is dear, too: is the rest worth one?
                    self._left -= 1 - now / then
                continue
            # What was lowered before, on the way from another start, is learned from at no price.
            failed += len(trials.steps) > lowerings
            wrong = misplaced(dag, planned.homes, Together(dag, after.dag))
            if wrong <= banned and not news:
                break  # nothing was learned
            banned |= wrong

    def _lowered(
        self,
        why: str,
        store: frozenset[str],
        dag: Dag,
        like: Dag,
        promised: int,
        *,
        again: bool = False,
    ) -> State | None:
        """The trial lowering of a plan for ``dag`` that foresaw the kernels ``like``.

        Where it moves more than ``promised``, it may be for the roundings, or on a GPU for what was
        marked early that some kernel then reads: it goes on from a lowering without these if that
        moves less.  Where it did not once, that is not tried any more, unless ``again``.
        """
        trials = self.trials
        every = store | self._needed(dag)
        after = trials.measure(why, every, like, promised)
        if after is None or not after.broke_promise or not trials.may_go_on:
            return after
        if self._bare_is_no_better and not again:
            return after
        early = store | self._needed(dag, late=False) if self._limits.locally else every
        if not after.rounded and early == every:
            return after
        bare = trials.measure(f"{why}, not rounded", early, promised=promised)
        if bare is not None and bare.dag.measured < after.dag.measured:
            return bare
        self._bare_is_no_better = True
        return after

    def _to_plan(self, dag: Dag, forced: set[str]) -> Dag:
        """Kernels with what the program may not decide held fixed."""
        dag = dag.with_forced(frozenset(forced))
        dag = dag.with_stocks(self.trials.as_stock, self.trials.kept)
        return dag.with_delicate_closed() if self.trials.bitwise else dag

    def _go_on_by_bytes(self, *starts: State) -> None:
        """Climbs by bytes from the first of some kernels that lead to anything better."""
        self._went_on_by_bytes = True
        best, left = self.trials.best, self._left
        for start in starts:
            if self.trials.best is best:
                self._left = left
                self._climb(start, self._limits.only_bytes)

    def _is_worth_trying(self, failed: int) -> bool:
        """The first plan is tried if it may save anything worth it, more as long as they help.

        A trial lowering takes as long as the graph is large, so what it must promise grows with
        that.
        """
        trials, limits = self.trials, self._limits
        promised = limits.worth_bytes(self._left, trials.best.dag)
        least = limits.node_bytes * trials.short.graph.nodes
        if not trials.tried:
            return promised >= least
        if promised < max(limits.least_bytes, _AGAIN * least * trials.tried):
            return False
        few = failed < limits.patience and trials.tried < limits.rounds
        return few and trials.may_go_on

    def _promises(self, planned: Plan, dag: Dag, limits: Limits, failed: int) -> bool:
        """Notes what a plan for ``dag`` should leave to save; whether it is worth its lowering."""
        if not self.trials.best.dag.measured:
            self._left = 0.0  # only views, or kernels that no plan changes
            return False
        self._left = 1 - self._promised(planned, dag, limits)
        if self._left < limits.worth or not self._is_worth_trying(failed):
            return False
        # In as many kernels as it was made for: a T5's backward took 14 trial lowerings, not 7.
        return self.trials.candidates.pays(planned.predicted, len(dag.kernels))

    def _promised(self, planned: Plan, dag: Dag, limits: Limits) -> float:
        """What a plan for ``dag`` should take of the best's bytes; of its time, given rates.

        Once all that is read elsewhere is realized, nothing is written again for a reader.
        """
        rates, again = limits.rates, sum(written_again(dag).values())
        if rates is None:
            return (planned.predicted - again) / self.trials.best.dag.measured
        best = limits.cost(self.trials.best.dag)
        saves = (planned.saves + again) * rates.byte
        return (limits.cost(dag) - saves) / best if best else 1.0
