"""A random choice of what to materialize, for tests: ``limits=random``.

Most graphs leave a plan little to gain, so that a test of them tests stock.  Every choice must
keep the promises, whoever made it: one is drawn where no plan acts, and goes the way of a plan
from there on.
"""

from __future__ import annotations

import random

import torch

from ..core.candidates import State, templates
from ..core.dag import Kind, delicate
from .search import Hunt

__all__ = ["Drawn"]


class Drawn(Hunt):
    """A search that ends with a random choice where it would have kept stock's."""

    def run(self) -> State:
        """The plan; without one, a random choice, which may move any number of bytes."""
        best = super().run()
        return self.draw() if best.store is None else best

    def draw(self) -> State:
        """Half of the values that a plan may store; stock where that cannot be told from stock.

        The same graph draws the same in every process.
        """
        dag = self.start.dag
        free = {v.node for v in dag.values if v.kind is Kind.POINTWISE and v.node}
        free -= dag.nodes(dag.never) | self._as_stock
        dice = random.Random(_digest(self.short.graph.module))
        chosen = frozenset(name for name in sorted(free) if dice.randrange(2))
        found = self._measure(self.short.spread(chosen) | self._kept)
        if self._bitwise and delicate(found.dag) != delicate(self.stock.dag):
            return self.stock  # no plan would be taken that builds a sum otherwise
        if templates(found.graph) != templates(self.stock.graph):
            return self.stock  # nor one that fuses something else into a template
        return found


def _digest(module: torch.fx.GraphModule) -> str:
    """What tells a graph from others, without what differs from one process to the next."""
    nodes = ((node.name, node.target) for node in module.graph.nodes)
    return "\n".join(f"{name} {getattr(target, '__name__', target)}" for name, target in nodes)
