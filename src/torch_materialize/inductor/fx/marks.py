"""The nodes of a graph that its one lowering is to realize, marked in their meta."""

from __future__ import annotations

import torch

__all__ = ["REALIZE_KEY", "mark", "unmark"]

#: Key in ``Node.meta`` of a node that is to be realized.
REALIZE_KEY = "torch_materialize_marked"


def mark(module: torch.fx.GraphModule, store: frozenset[str]) -> None:
    """Marks the nodes named in ``store``, for :func:`..lower.realize.realizing`."""
    for node in module.graph.nodes:
        if node.name in store:
            node.meta[REALIZE_KEY] = True


def unmark(module: torch.fx.GraphModule) -> None:
    """Takes back every :func:`mark`."""
    for node in module.graph.nodes:
        node.meta.pop(REALIZE_KEY, None)
