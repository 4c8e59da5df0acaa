"""What a plan decides for one graph, and the graph made ready to be lowered by it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..events import surprise
from .apply import mark, unmark
from .narrow import fold
from .rounding import apply_rounding, skip_exact_casts, undo_rounding

__all__ = ["Decision", "give_back", "prepare"]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What is to be lowered instead of stock's graph.

    Attributes:
        store: FX nodes to materialize, everything else inlined; None: leave it to stock.
        rounded: nodes whose kernel writes them with fewer digits than it goes on with, and
            which are therefore to be rounded (:mod:`.rounding`).
        marked: nodes to be marked as materialized: ``store``, and what is ``rounded``.
        casts: held narrowing casts that are not to be folded (:mod:`.narrow`).
    """

    store: frozenset[str] | None = None
    rounded: frozenset[str] = frozenset()
    marked: frozenset[str] = frozenset()
    casts: frozenset[str] = frozenset()


def prepare(module: torch.fx.GraphModule, found: Decision | None, numerics: str) -> None:
    """Makes of a graph, in place, what is to be lowered; without a plan what stock lowers.

    ``numerics`` is the policy's: under "eager" Inductor rounds at every cast, at those that lose
    nothing, too.
    """
    if found is None:
        fold(module)
        return
    fold(module, keep=found.casts)
    instead = apply_rounding(module, found.rounded)
    mark(module, frozenset(instead.get(name, name) for name in found.marked))
    if numerics == "eager":
        skip_exact_casts(module)


def give_back(module: torch.fx.GraphModule) -> None:
    """Makes of a graph, in place, what stock lowers, whatever :func:`prepare` did to it."""
    for undo in (unmark, undo_rounding, fold):
        try:
            undo(module)
        except Exception as error:  # noqa: BLE001 - what is left is valid, if not stock's
            surprise("torch._inductor.graph:GraphLowering.__init__", error)
