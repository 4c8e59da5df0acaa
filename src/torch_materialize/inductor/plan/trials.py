"""The trial lowerings of one search: made once each, counted, logged, and offered as candidates."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils import _pytree as pytree

from ...core.candidates import Candidates, State
from ...core.dag import Dag, in_delicate, required
from ...core.deadline import Deadline
from ...core.limits import Limits
from ...core.policy import STOCK, Policy
from ...core.traffic import traffic
from ...events import log
from ..fx.casts import held_names
from ..fx.decision import Decision, with_rounding
from ..fx.layers import Shortened
from ..fx.rounding import across, exact_casts, rounds
from ..lower.trial import LoweringError, trial
from .outcome import Step

__all__ = ["Trials"]

# Of the lowerings that a compile may take over as many are kept beside the best: what is rounded,
# or written besides, in the end is one of the last.
_LAST = 2


class Trials:
    """What Inductor makes of a graph under the choices that one search tries.

    Attributes:
        short: the graph, most of its repeated layers left out.
        stock: what stock makes of it.
        start: the kernels of the graph that is planned; those of stock, except where held
            casts make it another graph.
        written: held casts that are read narrow whatever is decided.
        without_plan: what is lowered, before anything is rounded, where no plan is better.
        as_stock: nodes that are left to stock's decision.
        kept: those of them that stock realizes.
        bitwise: whether the result has to be stock's to the last bit.
        candidates: every plan that was tried.
        steps: every trial lowering, in the order in which they were made.
    """

    def __init__(self, short: Shortened, limits: Limits, policy: Policy) -> None:
        self.short = short
        self.numerics = policy.numerics
        self.bitwise = policy.numerics == "stock"
        self.deadline = Deadline(limits.emergency)
        self.steps: list[Step] = []
        self._limits = limits
        self._tried: set[Decision] = set()
        self._made: dict[Decision, State | None] = {}
        module = short.graph.module
        casts = held_names(short.graph)
        self.stock = self.lowered("stock", Decision(), numerics="", most_pairs=limits.pairs)
        self.start = self.stock
        if casts:
            self.start = self.lowered("stock, with held casts", Decision(casts=casts))
        self.written, self.without_plan = self._without_plan(casts)
        self._without = [step.decision for step in self.steps]
        self.as_stock = _unbacked(module)
        if self.bitwise:
            self.as_stock |= rounds(module, self.stock.dag) | in_delicate(self.stock.dag)
        self.kept = self.as_stock & self.start.dag.nodes(self.start.dag.chosen())
        self.candidates = Candidates(self.stock, self.without_plan, limits, self.bitwise)

    def _without_plan(self, casts: frozenset[str]) -> tuple[frozenset[str], State]:
        """Of the held casts those that are read narrow, and what is lowered without a plan."""
        module = self.short.graph.module
        if self.numerics == "stored":
            # What is written anyway, or would be at a cut, is what is read, too, though upstream
            # would read past it.
            dag = self.start.dag
            written = casts & (dag.nodes(required(dag)) | across(module, dag))
            if written:
                state = self.lowered("stock, with narrow reads", Decision(casts=written))
                if state.dag.measured <= self.stock.dag.measured:
                    return written, state
        elif self.numerics == "eager" and exact_casts(module):
            return frozenset(), self.lowered("stock, rounded as eager", Decision())
        return frozenset(), self.stock

    @property
    def best(self) -> State:
        """The best candidate."""
        return self.candidates.best

    @property
    def tried(self) -> int:
        """Plans that were tried."""
        return len(self._tried)

    @property
    def may_go_on(self) -> bool:
        """Whether another trial lowering is allowed (:attr:`.Limits.lowered`)."""
        return len(self.steps) * self.short.graph.nodes < self._limits.lowered

    def _keep_what_may_ship(self) -> None:
        """Of the lowerings that the compile may take over drops those that will hardly ship."""
        handover = self.short.graph.handover
        if handover is not None:
            best = [decision for decision, state in self._made.items() if state is self.best]
            last = list(self._made)[-_LAST:]
            handover.keep([*self._without, *best, *last], self.numerics)

    def decision(self, store: frozenset[str] | None) -> Decision:
        """The decision to realize ``store``, before anything is rounded; None: as stock does."""
        marked = store or frozenset()
        return Decision(store=store, marked=marked, casts=marked | self.written)

    def measure(
        self, why: str, store: frozenset[str], like: Dag | None = None, promised: int = 0
    ) -> State | None:
        """What Inductor makes of a plan, tried once; None where it cannot lower the graph so.

        ``like`` has the kernels that are expected of it: what these need rounded is rounded, so
        that the plan is measured as it would ship (:mod:`.settle`).  ``promised`` are the bytes
        that they should move.
        """
        decision = self.decision(store)
        if like is not None and self.numerics == "stored":
            decision = with_rounding(self.short.graph.module, decision, like)
        known = decision in self._made
        self._tried.add(decision)
        after = self.attempt(why, decision, promised)
        if after is not None and not known:
            self.candidates.offer(after)
        return after

    @functools.cached_property
    def local(self) -> Dag:
        """What the local rule makes of the graph."""
        decision = Decision(casts=self.written)
        return self.lowered("the local rule", decision, Policy("traffic")).dag

    def unplanned(self, state: State) -> frozenset[str]:
        """What Inductor realizes on its own in a trial lowering that follows a plan."""
        if state.store is None:
            return frozenset()
        return self.short.spread(state.dag.nodes(state.dag.chosen()) - state.store)

    def attempt(self, why: str, decision: Decision, promised: int = 0) -> State | None:
        """:meth:`lowered`, made once; None where Inductor cannot lower the graph so."""
        if decision not in self._made:
            try:
                after = replace(self.lowered(why, decision), promised=promised)
            except LoweringError as error:
                log.info("plan: a plan is dropped, since Inductor cannot lower it: %s", error)
                after = None
            self._made[decision] = after
            self._keep_what_may_ship()
        return self._made[decision]

    def lowered(
        self,
        why: str,
        decision: Decision,
        policy: Policy = STOCK,
        numerics: str | None = None,
        most_pairs: int | None = None,
    ) -> State:
        """One trial lowering; ``why`` is for the log.

        Raises:
            LoweringError: Inductor cannot lower the graph so.
            OutOfTime: the emergency limit was reached.
            TooManyPairs: scheduling it would compare more than ``most_pairs`` pairs of kernels.
        """
        self.deadline.check()
        how = self.numerics if numerics is None else numerics
        step = Step(why, decision, policy, how)
        self.steps.append(step)
        graph, dag = trial(
            self.short.graph, decision, numerics=how, policy=policy, most_pairs=most_pairs
        )
        state = State(decision.store, graph, dag, decision.rounded, decision.marked)
        total = traffic(graph)
        self.steps[-1] = step.measured(total.bytes, total.kernels)
        log.debug("plan: trial lowering %d: %s", len(self.steps), self.steps[-1])
        return state


def _unbacked(module: torch.fx.GraphModule) -> frozenset[str]:
    """Nodes whose size depends on the data, so that there are no bytes to plan with."""
    return frozenset(
        node.name
        for node in module.graph.nodes
        for value in pytree.tree_leaves(node.meta.get("val"))
        if isinstance(value, torch.Tensor) and free_unbacked_symbols(value)
    )
