"""Which of the plans that were tried is taken."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from .cost import seconds_of
from .dag import Dag, delicate, peak_bytes
from .graph import Graph
from .limits import Limits
from .traffic import most_arguments, traffic

__all__ = ["Candidates", "State", "templates"]


@dataclass(frozen=True)
class State:
    """A dry run: what it was told to materialize (None: nothing), its kernels, and their values."""

    store: frozenset[str] | None
    graph: Graph
    dag: Dag


@dataclass(frozen=True, eq=False)
class _Weighed:
    state: State
    cost: float  # see Limits.cost
    seconds: float  # by the rates that doubt; 0 without such


class Candidates:
    """Every plan that was tried and may be taken, beside stock.

    Of those that should take no longer than the fastest, as far as rates can tell, the cheapest is
    the best.  Where no rates doubt, the cheapest of all.

    Args:
        as_stock: what is lowered where no plan is better.
        bitwise: whether a plan has to leave sums and the like as stock builds them.
    """

    def __init__(self, stock: State, as_stock: State, limits: Limits, bitwise: bool) -> None:
        self._stock = stock
        self._limits = limits
        self._bitwise = bitwise
        self._seconds = self._foreseen(stock)
        self._all = [self._weighed(as_stock)]
        self.best = as_stock
        # The cheapest that would be the best, were it not for its time.
        self.doubted: State | None = None

    def offer(self, new: State) -> None:
        """Tells of one more dry run."""
        if self._is_allowed(new):
            self._all.append(self._weighed(new))
            self._choose()

    def _choose(self) -> None:
        ranked = sorted(self._all, key=lambda one: one.cost)  # of equals the first stays the first
        longest = min(self._seconds, *(one.seconds for one in ranked))
        if self._limits.doubts is not None:
            longest *= 1 + self._limits.doubts.error
        # Stock with held casts folded otherwise may be slower than stock, but it is what is left.
        taken = next((one for one in ranked if one.seconds <= longest), self._all[0])
        self.best = taken.state
        refused = (one.state for one in ranked[: ranked.index(taken)] if one is not self._all[0])
        self.doubted = next(refused, None)

    def _weighed(self, state: State) -> _Weighed:
        return _Weighed(state, self._limits.cost(state.dag), self._foreseen(state))

    def _foreseen(self, state: State) -> float:
        doubts = self._limits.doubts
        return 0.0 if doubts is None else seconds_of(state.dag, doubts)

    def _is_allowed(self, new: State) -> bool:
        """Fewer bytes than stock, launches worth it, arguments and peak as allowed."""
        ours, stock = traffic(new.graph), traffic(self._stock.graph)
        launches = max(ours.kernels - stock.kernels, 0)
        saved = stock.bytes - ours.bytes
        if saved <= 0 or saved < launches * self._limits.launch_bytes:
            return False
        if self._bitwise and delicate(new.dag) != delicate(self._stock.dag):
            return False
        if templates(new.graph) != templates(self._stock.graph):
            return False
        # A plan keeps to this, but where a search starts is no plan.
        if most_arguments(new.graph) > max(
            self._limits.arguments, most_arguments(self._stock.graph)
        ):
            return False
        return peak_bytes(new.dag, new.dag.homes()) <= self._highest

    @functools.cached_property
    def _highest(self) -> float:
        """The peak that a plan may have, in bytes; asked of stock once, by whoever comes so far."""
        dag = self._stock.dag
        return peak_bytes(dag, dag.homes()) * (1 + self._limits.peak_share)


def templates(graph: Graph) -> set[frozenset[str]]:
    """What templates compute, with what is fused to them: some take nothing, and fail."""
    return {frozenset(kernel.computes) for kernel in graph.kernels if kernel.kind == "template"}
