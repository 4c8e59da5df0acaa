"""A random choice of what to materialize, for tests: ``limits=random``.

Most graphs leave a plan little to gain, so that a test of them tests stock.  Every choice must
keep the promises, whoever made it: one is drawn where no plan acts, and goes the way of a plan
from there on.
"""

from __future__ import annotations

import random

import torch

from ...core.candidates import State, templates
from ...core.dag import Kind, delicate
from ..fx.decision import Decision, with_rounding
from .rounds import Rounds

__all__ = ["Drawn"]


class Drawn(Rounds):
    """A search that ends with a random choice where it would have kept stock's."""

    def settled(self) -> tuple[Decision, State]:
        """The plan; without one, a random choice, which may move any number of bytes."""
        decision, best = super().settled()
        if best.store is not None:
            return decision, best
        return self._drawn() or (decision, best)

    def _drawn(self) -> tuple[Decision, State] | None:
        """Half of the values that a plan may store; None where no plan would be taken with it.

        The same graph draws the same in every process.
        """
        trials = self.trials
        dag, module = trials.start.dag, trials.short.graph.module
        free = {v.node for v in dag.values if v.kind is Kind.POINTWISE and v.node}
        free -= dag.nodes(dag.never) | trials.as_stock
        dice = random.Random(_digest(module))
        chosen = frozenset(name for name in sorted(free) if dice.randrange(2))
        found = trials.measure("drawn at random", trials.short.spread(chosen) | trials.kept)
        if found is None:
            return None
        decision, after = trials.decision(found.store), found
        if trials.numerics == "stored":
            decision = with_rounding(module, decision, found.dag)
            shipped = (
                trials.attempt("drawn, with roundings", decision) if decision.rounded else found
            )
            if shipped is None:
                return None
            after = shipped
        if trials.bitwise and delicate(after.dag) != delicate(trials.stock.dag):
            return None  # it builds a sum otherwise
        if templates(after.graph) != templates(trials.stock.graph):
            return None  # it fuses something else into a template
        return decision, after


def _digest(module: torch.fx.GraphModule) -> str:
    """What distinguishes a graph, without what differs from one process to the next."""
    nodes = ((node.name, node.target) for node in module.graph.nodes)
    return "\n".join(f"{name} {getattr(target, '__name__', target)}" for name, target in nodes)
