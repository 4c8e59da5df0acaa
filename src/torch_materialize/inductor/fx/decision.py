"""What a plan decides for one graph, and the graph made ready to be lowered by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from ...core.dag import Dag
from ...events import surprise
from ..read.storage import copied_over
from .casts import fold
from .marks import mark, unmark
from .rounding import apply_rounding, skip_exact_casts, to_round, undo_rounding

__all__ = [
    "GIVEN_UP",
    "NESTED_REDUCTIONS",
    "NO_CHANGE",
    "SWITCHES",
    "Decision",
    "give_back",
    "names_of",
    "of_names",
    "prepare",
    "rounds_casts",
    "with_rounding",
]


#: One kernel for a reduction of rows and one of groups in them: off by default before torch 2.15.
NESTED_REDUCTIONS = "triton.nested_reduction"
#: Inductor's settings that a decision may switch on for one graph.
SWITCHES = frozenset({NESTED_REDUCTIONS})


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What is to be lowered instead of stock's graph.

    Attributes:
        store: FX nodes to materialize, everything else inlined; None: leave it to stock.
        rounded: nodes whose kernel writes them with fewer digits than it goes on with, and
            which are therefore to be rounded (:mod:`.rounding`).
        marked: nodes to be marked as materialized: ``store``, of what is ``rounded`` what is
            written, and what is written since it crosses an opaque operator (:mod:`..plan.settle`).
        casts: held narrowing casts that are not to be folded (:mod:`.casts`).
        settings: of :data:`SWITCHES` those that are on while the graph is scheduled and its code
            generated.
    """

    store: frozenset[str] | None = None
    rounded: frozenset[str] = frozenset()
    marked: frozenset[str] = frozenset()
    casts: frozenset[str] = frozenset()
    settings: frozenset[str] = frozenset()

    @property
    def changes(self) -> bool:
        """Whether Inductor is to lower anything else than stock's graph, or to choose otherwise."""
        sets = self.rounded, self.marked, self.casts, self.settings
        return self.store is not None or any(sets)


#: What Inductor decides by itself is what is lowered.
NO_CHANGE = Decision()


def rounds_casts(decision: Decision, numerics: str) -> bool:
    """Whether the code that is generated has to round at each of its casts.

    At those, too, that a decision keeps: a graph may round besides, and its pieces may not.
    """
    return numerics == "eager" or (
        numerics == "stored" and bool(decision.rounded or decision.casts)
    )


def with_rounding(module: torch.fx.GraphModule, decision: Decision, dag: Dag) -> Decision:
    """``decision`` with what is to be rounded where its kernels are those of ``dag``.

    What of that is written is marked: else its unrounded value might be written.
    """
    rounded = to_round(module, dag)
    written = dag.nodes(dag.chosen()) - copied_over(module)
    return replace(decision, rounded=rounded, marked=decision.marked | (rounded & written))


#: Stock, since a search took far too long; another attempt may plan, so it is not to be cached.
GIVEN_UP = Decision()


def names_of(decision: Decision) -> dict[str, list[str] | None]:
    """A decision as lists of names, which :func:`of_names` reads."""
    values = {field.name: getattr(decision, field.name) for field in fields(Decision)}
    return {name: None if value is None else sorted(value) for name, value in values.items()}


def of_names(names: Mapping[str, Any], module: torch.fx.GraphModule) -> Decision | None:
    """The decision that was written down; None if it is not one about this graph."""
    there = {node.name for node in module.graph.nodes}
    if set(names) != {field.name for field in fields(Decision)}:
        return None
    sets = {field: None if own is None else frozenset(own) for field, own in names.items()}
    may = {field: SWITCHES if field == "settings" else there for field in sets}
    known = all(own is None or own <= may[field] for field, own in sets.items())
    # Only `store` may be absent.
    filled = all(own is not None for field, own in sets.items() if field != "store")
    return Decision(**sets) if known and filled else None  # type: ignore[arg-type]


def prepare(module: torch.fx.GraphModule, found: Decision | None, numerics: str) -> None:
    """Makes of a graph, in place, what is to be lowered; without a plan what stock lowers.

    ``numerics`` is the policy's: under "eager" Inductor rounds at every cast, at those that lose
    nothing, too.
    """
    if found is None or found is GIVEN_UP:
        fold(module)
        return
    fold(module, keep=found.casts)
    apply_rounding(module, found.rounded)
    mark(module, found.marked)
    if numerics == "eager":
        skip_exact_casts(module)


def give_back(module: torch.fx.GraphModule) -> None:
    """Makes of a graph, in place, what stock lowers, whatever :func:`prepare` did to it."""
    for undo in (unmark, undo_rounding, fold):
        try:
            undo(module)
        except Exception as error:  # noqa: BLE001 - what is left is valid, if not stock's
            surprise("torch._inductor.graph:GraphLowering.__init__", error)
