"""Which of the plans that were tried is taken."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from .cost import seconds_of
from .dag import Dag, delicate
from .graph import Graph
from .limits import Limits
from .memory import peak_bytes
from .story import Refusal
from .traffic import most_arguments, traffic

__all__ = ["Candidates", "State", "templates"]


@dataclass(frozen=True)
class State:
    """A trial lowering: its kernels, and their values.

    Attributes:
        store: nodes that it had to materialize, everything else inlined; None: as stock does.
        rounded: nodes that were rounded for all their users.
        marked: nodes that were marked as materialized: ``store``, and of ``rounded`` some.
        promised: bytes that the plan for it foresaw; 0 where no plan was made for it.
    """

    store: frozenset[str] | None
    graph: Graph
    dag: Dag
    rounded: frozenset[str] = frozenset()
    marked: frozenset[str] = frozenset()
    promised: int = 0

    @property
    def broke_promise(self) -> bool:
        """Whether it moves more bytes than its plan foresaw."""
        return 0 < self.promised < self.dag.measured


@dataclass(frozen=True, eq=False)
class _Weighed:
    state: State
    cost: float  # see Limits.cost
    seconds: float  # by Limits.refusing_rates; 0 without such


class Candidates:
    """Every plan that was tried and may be taken, beside stock.

    The best is the cheapest of those that should take no longer than the fastest, within the error
    of :attr:`.Limits.refusing_rates`; without such rates, the cheapest of all.  Where stock itself
    does not keep to :attr:`.Limits.peak` it is none of them, and a plan need not be better than it.

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
        self._most = traffic(stock.graph).bytes  # a plan has to move fewer
        self._stock_fits = limits.peak is None or _peak_of(as_stock) <= limits.peak
        self._refused: list[tuple[float, Refusal]] = []  # with what each costs

    def begin_with(self, new: State) -> None:
        """Puts a trial lowering in the place of stock's choice: a plan has to move fewer bytes."""
        if not self._stock_fits:
            self.offer(new)
            return
        self._all[0] = self._weighed(new)
        self._most = traffic(new.graph).bytes
        self._choose()

    def offer(self, new: State) -> None:
        """Adds one more trial lowering to choose from."""
        self._put(len(self._all), new)
        self._choose()

    def replace(self, old: State, new: State | None) -> None:
        """Puts what is lowered in the end in the place of a trial; None: it cannot be lowered.

        What is lowered where no plan is better stays, whatever it moves.  Of equals the first
        stays the first, so that where rounding costs nothing no other plan is rounded, too.
        """
        place = next(i for i, one in enumerate(self._all) if one.state is old)
        if not place:
            self._all[0] = self._weighed(new or self._stock)
        else:
            del self._all[place]
            if new is not None:
                self._put(place, new)
        self._choose()

    def _put(self, place: int, new: State) -> None:
        """Adds a trial lowering to those that may be taken, if no rule refuses it."""
        if self._stock_fits and traffic(new.graph).bytes >= self._most:
            return
        refusal = self._refusal(new)
        if refusal is not None:
            self._refused.append((self._limits.cost(new.dag), refusal))
        else:
            self._all.insert(place, self._weighed(new))

    def allow(self, new: State) -> bool:
        """Whether no rule forbids taking a trial lowering of no more bytes than stock."""
        if (self._stock_fits and self._saved(new) < 0) or self._foreseen(new) > self._longest:
            return False
        return self._refusal(new) is None

    def pays(self, moved: int, kernels: int) -> bool:
        """Whether a plan of so many bytes saves enough for its launches, next to stock's."""
        stock = traffic(self._stock.graph)
        more = kernels - stock.kernels
        if more <= 0 or not self._stock_fits:
            return True
        return stock.bytes - moved >= more * self._limits.launch_bytes

    @property
    def least_peak(self) -> int:
        """The most bytes alive at once of the trial lowering of the fewest, taken or refused."""
        peaks = [one.found for _, one in self._refused if one.rule == "peak"]
        return int(min([_peak_of(one.state) for one in self._all] + peaks))

    @property
    def fits(self) -> bool:
        """Whether what is taken keeps to :attr:`.Limits.peak`."""
        return self._limits.peak is None or _peak_of(self.best) <= self._limits.peak

    @property
    def refused(self) -> tuple[Refusal, ...]:
        """Of each rule the best plan that it kept from being taken, those of fewest bytes first.

        It moves fewer bytes than :attr:`best`, and either costs less as well, or it is dear for the
        time that it should take or for what it computes.
        """
        cost, moves = self._limits.cost(self.best.dag), traffic(self.best.graph).bytes
        better = [one for price, one in self._refused if price < cost and one.bytes < moves]
        for plan in self._all[1:]:
            fewer, slow = moves - traffic(plan.state.graph).bytes, plan.seconds > self._longest
            # Enough to be said, where nothing else speaks for it.
            if fewer > (0 if slow and plan.cost < cost else self._limits.worth * moves):
                better.append(self._too_slow(plan) if slow else self._too_dear(plan))
        best: dict[str, Refusal] = {}
        for one in sorted(better, key=lambda one: one.bytes):
            best.setdefault(one.rule, replace(one, instead=moves))
        return tuple(best.values())

    @property
    def slow(self) -> State | None:
        """The plan of fewest bytes, if it is too slow to be taken, however few they are."""
        moves = self.best.dag.measured
        slow = [o.state for o in self._all[1:] if o.seconds > self._longest]
        return min(
            (one for one in slow if one.dag.measured < moves),
            key=lambda one: one.dag.measured,  # of equals the first
            default=None,
        )

    def too_long(self, state: State) -> float:
        """By how many seconds a trial lowering should take longer than is allowed; at least 0."""
        return max(self._foreseen(state) - self._longest, 0.0)

    def _choose(self) -> None:
        ranked = sorted(self._allowed, key=lambda one: one.cost)  # of equals the first stays first
        longest = self._longest
        # Stock with held casts folded otherwise may be slower than stock, but it is what is left.
        taken = next((one for one in ranked if one.seconds <= longest), self._all[0])
        self.best = taken.state

    @property
    def _longest(self) -> float:
        """The most seconds that a plan should take by the refusing rates."""
        longest = min((one.seconds for one in self._allowed), default=self._seconds)
        if self._stock_fits:
            longest = min(longest, self._seconds)
        refusing_rates = self._limits.refusing_rates
        return longest if refusing_rates is None else longest * (1 + refusing_rates.error)

    @property
    def _allowed(self) -> list[_Weighed]:
        return self._all if self._stock_fits else self._all[1:]

    def _weighed(self, state: State) -> _Weighed:
        return _Weighed(state, self._limits.cost(state.dag), self._foreseen(state))

    def _foreseen(self, state: State) -> float:
        refusing_rates = self._limits.refusing_rates
        return 0.0 if refusing_rates is None else seconds_of(state.dag, refusing_rates)

    def _saved(self, new: State) -> int:
        return traffic(self._stock.graph).bytes - traffic(new.graph).bytes

    def _refusal(self, new: State) -> Refusal | None:
        """The first rule that refuses a plan: launches worth it, arguments and peak as allowed."""
        ours, stock, saved = traffic(new.graph), traffic(self._stock.graph), self._saved(new)
        refused = Refusal("launches", ours.bytes, stock.bytes, found=saved)
        if not self.pays(ours.bytes, ours.kernels):
            launches = ours.kernels - stock.kernels
            return replace(refused, limit=launches * self._limits.launch_bytes, stock=launches)
        if self._bitwise and delicate(new.dag) != delicate(self._stock.dag):
            return replace(refused, rule="sums", found=0)
        if templates(new.graph) != templates(self._stock.graph):
            return replace(refused, rule="templates", found=0)
        # A plan keeps to this, but where a search starts is no plan.
        had, has = most_arguments(self._stock.graph), most_arguments(new.graph)
        most = max(self._limits.arguments, had)
        if has > most:
            return replace(refused, rule="arguments", found=has, limit=most, stock=had)
        peak = _peak_of(new)
        limit = self._limits.peak or self._peak * (1 + self._limits.peak_share)
        if peak > limit:
            return replace(refused, rule="peak", found=peak, limit=limit, stock=self._peak)
        return None

    def _too_slow(self, one: _Weighed) -> Refusal:
        ours, stock = traffic(one.state.graph).bytes, traffic(self._stock.graph).bytes
        return Refusal("time", ours, stock, one.seconds, self._longest, self._seconds)

    def _too_dear(self, one: _Weighed) -> Refusal:
        ours, stock = traffic(one.state.graph).bytes, traffic(self._stock.graph).bytes
        cost = self._limits.cost(self.best.dag)
        if self._limits.rates is not None:
            return Refusal("time", ours, stock, one.cost, cost, self._limits.cost(self._stock.dag))
        saved = traffic(self.best.graph).bytes - ours
        return Refusal("operations", ours, stock, found=one.cost - cost + saved, limit=saved)

    @functools.cached_property
    def _peak(self) -> int:
        """Stock's peak memory in bytes; computed once, for the first plan that gets so far."""
        return _peak_of(self._stock)


def _peak_of(state: State) -> int:
    return peak_bytes(state.dag, state.dag.homes())


def templates(graph: Graph) -> set[frozenset[str]]:
    """What templates compute, with what is fused to them: some take nothing, and fail."""
    return {frozenset(kernel.computes) for kernel in graph.kernels if kernel.kind == "template"}
