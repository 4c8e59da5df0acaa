"""What a plan respects."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .cost import Rates, Weights, kind, seconds_of
from .dag import Dag, Fused

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """What a plan respects, and what counts against the bytes that it saves.

    Attributes:
        arguments: the most buffers one kernel may take (a fused kernel with very many of
            them crashed a CUDA launch and had the upstream rule reverted).
        body: the most values that one kernel may recompute.
        seconds: time for planning; the best plan by then is taken.  Far above what is usual,
            since a clock decides differently on different machines.
        solve_seconds: of them, for one integer program; what is not solved by then keeps the
            dry run's decisions.
        peak_share: how much higher than stock's the estimated peak of all live memory may be,
            inputs and outputs counted (:mod:`.memory`).
        balance: bytes that the device moves in the time of one operation.
        rates: of the device, where they were measured; None: time goes by bytes.
        doubts: rates that decide between plans as far as they can tell: one that should take
            longer than stock or another, by more than these are usually wrong, is refused; between
            the others bytes decide.  None: bytes alone do.
        surcharge: what a byte costs besides its time, in bytes of a usual kernel; for a search by
            time that would move too many.
        launch_bytes: what one more kernel must save to be worth its launch; as it is here, on a
            GPU of 2.4 TB/s.
        rounds: plans that may be tried by a dry run.
        worth: share of the bytes, or of the time, that a plan must promise to save to be worth its
            dry run.
        least_bytes: what a plan after the first must promise to save: less is not worth the time
            of a dry run, which is that of lowering the graph.
        node_bytes: what a plan must promise to save for each FX node of the graph, since that many
            are lowered to try it; ten times as much for each plan that was tried before.
        patience: dry runs from one starting point that may fail to find anything better.
        gap: share of the bytes that must seem to be left for another starting point.
        locally: the local rule (policy `traffic`) always has a dry run, and is started from where
            it moves fewer bytes than the best plan: what seems to be left depends on what Inductor
            was seen to materialize on the way there.
    """

    arguments: int = 128
    body: int = 96
    seconds: float = 60.0
    solve_seconds: float = 5.0
    peak_share: float = 0.05
    balance: float = 0.02
    rates: Rates | None = None
    doubts: Rates | None = None
    surcharge: float = 0.0
    launch_bytes: int = 4_000_000
    rounds: int = 12
    worth: float = 0.002
    least_bytes: int = 1_000_000
    node_bytes: float = 0.0
    patience: int = 2
    gap: float = 0.01
    locally: bool = False

    @property
    def only_bytes(self) -> Limits:
        """These limits for a plan that moves the fewest bytes, whatever time it takes."""
        return replace(self, rates=None, balance=0.0)

    @property
    def by_time(self) -> Limits | None:
        """These limits for the least time by the rates that only doubt; None: there are no such."""
        if self.doubts is None:
            return None
        return replace(self, rates=self.doubts, doubts=None, balance=self.doubts.balance)

    @property
    def hidden(self) -> bool:
        """Whether kernels compute while they move bytes: the longer of the two is their time."""
        return self.rates is None or self.rates.overlap

    def cost(self, dag: Dag) -> float:
        """What the fused kernels of a dry run cost, to be compared with another of the same graph.

        The predicted seconds where the device has :attr:`rates`, else bytes (:meth:`.Dag.cost`).
        """
        if self.rates is None:
            return dag.cost(self.balance)
        return seconds_of(dag, self.rates)

    def worth_bytes(self, share: float, dag: Dag) -> float:
        """A share of a dry run's cost, as bytes that could be moved meanwhile."""
        if self.rates is None or not self.rates.byte:
            return share * dag.measured
        return share * self.cost(dag) / self.rates.byte

    def weights(self, kernel: Fused) -> Weights:
        """What planning takes a byte and an operation of a kernel to cost; see :attr:`hidden`."""
        if self.rates is None:
            return Weights(operation=self.balance)
        usual, one = self.rates.balance, self.rates.weights(kind(kernel))
        share = one.operation / usual if usual else 1.0
        read = one.read + (kernel.passes - 1) * one.again
        return replace(one, read=read, operation=self.balance * share)
