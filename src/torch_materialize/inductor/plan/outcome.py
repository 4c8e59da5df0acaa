"""What a trial lowering and a search hand on."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...core.dag import Dag
from ...core.graph import Graph
from ...core.policy import Policy
from ...core.story import Refusal
from ..fx.decision import Decision

__all__ = ["Found", "Outcome", "Step"]


@dataclass(frozen=True)
class Step:
    """One trial lowering of a search, with all that it takes to make it again.

    Attributes:
        why: what was tried.
        decision: of the graph without most of its repeated layers.
        policy: whose local rule decided what ``decision`` does not.
        numerics: how it was rounded.
        bytes, kernels: that the fused kernels move, and how many there are; -1 where Inductor
            could not lower the graph so.
    """

    why: str
    decision: Decision
    policy: Policy
    numerics: str
    bytes: int = -1
    kernels: int = -1

    def measured(self, moved: int, kernels: int) -> Step:
        """The step with what was measured."""
        return replace(self, bytes=moved, kernels=kernels)

    def __str__(self) -> str:
        store = self.decision.store
        realized = "" if store is None else f", {len(store)} realized"
        rounded = f", {len(self.decision.rounded)} rounded" if self.decision.rounded else ""
        return f"{self.why}{realized}{rounded}: {self.bytes} bytes in {self.kernels} kernels"


@dataclass(frozen=True, kw_only=True)
class Found(Decision):
    """The outcome of one search.

    Attributes:
        graph: the kernels of the outcome, from a trial lowering.
        stock: the kernels of stock.
        dag: the planner's view of the outcome, from the same lowering as ``graph``.
        stock_dag: the same of ``stock``.
        bound: certified lower bound in bytes, with the outcome's kernels, their order and
            their required outputs held fixed; None without ``certify``.
        unfused: bytes that the plan behind ``bound`` moves more, lowered, than it foresaw, since
            Inductor does not make all of its fusions.
        seconds: wall time of the search, without what ``certify`` added.
        rounds: trial lowerings made.
        left_out: nodes of repeated layers that were decided like their counterparts;
            ``graph``, ``dag`` and ``stock`` are without them, except with ``certify``.
        refused: better plans that a rule kept from being taken; without ``left_out``, too.
        steps: the trial lowerings, in order; :func:`.search.replay` makes them again.
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
    unfused: int = 0
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """One trial lowering.

    Attributes:
        graph: its kernels.
        dag: the planner's view of the same kernels.
        bound: the least possible in bytes, None where the policy has none.
        found: how the plan was found, None where the policy has none.
        left_to_stock: why a policy that plans has no plan for the graph, else "".
    """

    graph: Graph
    dag: Dag
    bound: float | None = None
    found: Found | None = None
    left_to_stock: str = ""
