"""What a plan respects."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .cost import Rates, Weights, kind, seconds_of
from .dag import Dag, Fused
from .devices import Device
from .fits import FITS

__all__ = ["Limits", "limits_for"]

# What one launch costs: on a GPU the seconds that an H200 took for one (what `benchmarks/fit.py`
# says of its results: 1.6 us for a pointwise kernel, more for others, in the replay of a CUDA
# graph), as bytes that the device at hand could have moved meanwhile; on a CPU some ten
# microseconds.
_GPU_LAUNCH_SECONDS = 1.7e-6
_CPU_LAUNCH_BYTES = 100_000
# A trial lowering takes some 1.7 ms for each node, which should be won back within 50,000 calls.
# On a GPU, where code takes far longer to compile, the first plan is always tried.
_CPU_NODE_SECONDS = 1.7e-3 / 50_000
# Of two cores, where no rates were measured.
_CPU_BYTE_SECONDS = 1e-10
# What one operation costs in the same coin.  An H200 moves 4.8 TB/s and does some 50 T simple
# operations a second, a tenth of a byte each; a CPU core with vectors of 8 moves 10 GB/s and does
# some 50 G.  A fraction of that, since a loop body shows more than what is executed (values that
# a whole row shares): it is to keep out what is certainly compute-bound.  Rates that were
# measured on a device have the last word (`Limits.refusing_rates`).
_GPU_BALANCE = 0.02
# Of a CPU without measured rates: what the one that was measured needs, so that a plan recomputes
# no more there.  More cores at one memory have operations to spare.
_CPU_BALANCE = 0.8
# No infinity: of a peak of nothing it makes no number.
_WHATEVER = 1e12
# Less than a byte of any graph, and more than rounding errors of a share.
_NEXT_TO_NOTHING = 1e-13


@dataclass(frozen=True)
class Limits:
    """What a plan respects, and what counts against the bytes that it saves.

    Attributes:
        arguments: the most buffers one kernel may take (a fused kernel with very many of
            them crashed a CUDA launch and had the upstream rule reverted).
        body: the most values that one kernel may recompute.
        lowered: the most FX nodes that the trial lowerings of one search may lower together, which
            takes some minute; stock and one plan are always tried.
        pairs: the most pairs of kernels that Inductor may compare to schedule stock's choice
            (:mod:`..inductor.lower.pairs`); a graph with more is left to stock before anything is
            scheduled.  The backward of an RWKV has 77,000: one lowering took 41 s and a search ten
            times that, for 1.8% fewer bytes.  A DenseNet of 6,600 nodes has 10,000.
        solve_entries: the most entries in the rows of one integer program.  The solver's first
            steps (presolve, the linear program) are bounded by nothing else, and a chain of layers
            with 1,100,000 took 5 s; a group of kernels with a larger program keeps the
            decisions of the trial lowering.
        solve_work: what the solver may do for the programs of one plan, each branch counted with
            the entries of its program; the best plan by then is taken.  With ten times as much the
            search for a Mamba's backward took 81 s instead of 47 and moved 0.02% more bytes: the
            rest is proof.
        proof_work: the same where a proof is wanted, for a certified bound.
        emergency: seconds after which a search raises :class:`.OutOfTime` and the graph is left to
            stock.  All else is counted, so that the same graph gets the same plan on every
            machine, however busy; this is ten times what a search could take before.
        peak_share: how much higher than stock's the estimated peak of all live memory may be,
            inputs and outputs counted (:mod:`.memory`).
        peak: the most bytes that may be alive at once, instead of ``peak_share``: plans that keep
            to it are taken before stock where stock does not, whatever they move.
        balance: bytes that the device moves in the time of one operation.
        rates: of the device, where they were measured; None: time goes by bytes.
        refusing_rates: rates that may refuse a plan: one that should take longer than stock or
            another plan, by more than the usual error of these rates.  Bytes decide between the
            plans that remain; None: between all.
        launch_bytes: what one more kernel must save to be worth its launch; as it is here, on a
            GPU of 2.4 TB/s.
        rounds: the most plans that may be lowered on trial.
        worth: share of the bytes, or of the time, that a plan must promise to save to be worth its
            trial lowering.
        least_bytes: what a plan after the first must promise to save: less is not worth the time
            of a trial lowering, which is that of lowering the graph.
        node_bytes: what a plan must promise to save for each FX node of the graph, since that many
            are lowered to try it; ten times as much for each plan that was tried before.
        patience: trial lowerings from one starting point that may fail to find anything better.
        gap: share of the bytes that must seem to be left for another starting point.
        locally: a search on a GPU goes on from the best plan with kernels that reach further, and
            where that leaves anything open, from the local rule's choice (policy `traffic`) if that
            moves fewer bytes.
        further: a kernel may compute on the side what it has not everything at hand for
            (:mod:`.cones`).  It finds other plans (2% fewer bytes in a DINOv2's backward); programs
            are larger, and more of what they promise does not fuse.
        as_pieces: in inference what crosses an opaque operator is written where that costs no
            bytes, as the pieces of a graph that is cut there have to.  On a CPU what else a kernel
            loads decides how long its vectors are, and so in which order it sums.  Not on a GPU,
            where 29 graphs planned for an H200 moved the same bytes with and without.
    """

    arguments: int = 128
    body: int = 96
    lowered: int = 40_000
    pairs: int = 50_000
    solve_entries: int = 300_000
    solve_work: int = 2_000_000
    proof_work: int = 20_000_000
    emergency: float = 600.0
    peak_share: float = 0.05
    peak: int | None = None
    balance: float = 0.02
    rates: Rates | None = None
    refusing_rates: Rates | None = None
    launch_bytes: int = 4_000_000
    rounds: int = 12
    worth: float = 0.002
    least_bytes: int = 1_000_000
    node_bytes: float = 0.0
    patience: int = 2
    gap: float = 0.01
    locally: bool = False
    further: bool = False
    as_pieces: bool = False

    @property
    def only_bytes(self) -> Limits:
        """These limits for a plan that moves the fewest bytes, whatever time it takes."""
        return replace(self, rates=None, balance=0.0)

    @property
    def widest(self) -> Limits:
        """These limits for the fewest bytes over all that kernels can reach."""
        return replace(self.only_bytes, further=True)

    @property
    def certifying(self) -> Limits:
        """These limits for the least that any plan can move."""
        return replace(self.widest, solve_work=self.proof_work)

    @property
    def patient(self) -> Limits:
        """These limits, with whatever may save one byte lowered on trial."""
        nothing = _NEXT_TO_NOTHING
        return replace(self, worth=nothing, least_bytes=0, node_bytes=0.0, gap=nothing)

    @property
    def strong(self) -> Limits:
        """These limits for a plan wherever one byte is saved: for tests, not for use.

        What guards against a crash (``arguments``, ``body``) and against endless work stays.
        """
        return replace(
            self.only_bytes.patient,
            refusing_rates=None,
            peak_share=_WHATEVER,
            launch_bytes=0,
            locally=True,
        )

    @property
    def by_time(self) -> Limits | None:
        """These limits for the least time by :attr:`refusing_rates`; None where there are none."""
        if self.refusing_rates is None:
            return None
        return replace(
            self,
            rates=self.refusing_rates,
            refusing_rates=None,
            balance=self.refusing_rates.balance,
        )

    @property
    def hidden(self) -> bool:
        """Whether kernels compute while they move bytes: the longer of the two is their time."""
        return self.rates is None or self.rates.overlap

    def cost(self, dag: Dag) -> float:
        """What the fused kernels of a trial lowering cost, to compare it with another of the graph.

        The predicted seconds where the device has :attr:`rates`, else bytes (:meth:`.Dag.cost`).
        """
        if self.rates is None:
            return dag.cost(self.balance)
        return seconds_of(dag, self.rates)

    def worth_bytes(self, share: float, dag: Dag) -> float:
        """A share of a trial lowering's cost, as bytes that could be moved meanwhile."""
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


def limits_for(device: Device | None) -> Limits:
    """The limits that a plan respects on a device; None: one that we know nothing of.

    A device of the table that is named (``compare``, a trial lowering) has its rates; of the one at
    hand :mod:`..inductor.read.at_hand` says whether they are its own.
    """
    rates = FITS.get(device.fitted) if device else None
    if device is None or device.is_gpu:
        launch = int(_GPU_LAUNCH_SECONDS * (device.bandwidth if device else 0.0))
        # Next to compiling for a GPU one more trial lowering is nothing.
        return Limits(
            launch_bytes=launch or Limits.launch_bytes,
            balance=_GPU_BALANCE,
            refusing_rates=rates,
            locally=True,
        )
    return Limits(
        rates=rates,
        launch_bytes=_CPU_LAUNCH_BYTES,
        balance=rates.balance if rates else _CPU_BALANCE,
        least_bytes=_CPU_LAUNCH_BYTES,
        node_bytes=_CPU_NODE_SECONDS / (rates.byte if rates else _CPU_BYTE_SECONDS),
        as_pieces=True,
    )
