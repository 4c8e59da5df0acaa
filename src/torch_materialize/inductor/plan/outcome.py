"""What a dry run and a search hand on."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.dag import Dag
from ...core.graph import Graph
from ...core.story import Refusal
from ..fx.decision import Decision

__all__ = ["Found", "Outcome"]


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


@dataclass(frozen=True)
class Outcome:
    """One dry run.

    Attributes:
        graph: its kernels.
        dag: the planner's view of the same kernels.
        bound: the least possible in bytes, None where the policy has none.
        found: how the plan was found, None where the policy has none.
    """

    graph: Graph
    dag: Dag
    bound: float | None = None
    found: Found | None = None
