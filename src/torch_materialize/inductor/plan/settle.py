"""From the best dry run to what ships: its roundings are decided, lowered and measured, too.

What is to be rounded follows from the kernels (:mod:`..fx.rounding`), and rounding may change
them.  So the best plan is lowered once more as it would ship, and what that moves counts: where
another plan is then better, that one is taken, and where nothing moves less than stock, stock's
choice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import torch

from ...core.candidates import Candidates, State
from ...core.dag import Dag, moved
from ...events import log
from ..fx.decision import Decision
from ..fx.rounding import to_round
from ..read.storage import copied_over

__all__ = ["settle", "with_rounding"]

# Dry runs that may be spent on finding out which roundings cost bytes.
_TRIES = 6


def settle(
    module: torch.fx.GraphModule,
    candidates: Candidates,
    stock: State,
    unrounded: Callable[[State], Decision],
    attempt: Callable[[Decision], State | None],
) -> tuple[Decision, State]:
    """The best decision with its roundings, and its dry run.

    ``unrounded`` tells what a dry run was made of; ``attempt`` makes one, None where Inductor
    cannot.  With each round one candidate has been replaced by what it ships, so it ends.
    """
    shipped: dict[int, tuple[Decision, State]] = {}
    while id(candidates.best) not in shipped:
        best = candidates.best
        decision = with_rounding(module, unrounded(best), best)
        after: State | None = best
        if decision.rounded:
            decision, after = _cheaper(module, decision, best, attempt)
            if best.store is None and (after is None or _costs(after, stock)):
                decision, after = _without_what_costs(decision, best, stock, attempt)
            candidates.replace(best, after)
        if after is not None:
            shipped[id(after)] = decision, after
    return shipped[id(candidates.best)]


def with_rounding(module: torch.fx.GraphModule, decision: Decision, state: State) -> Decision:
    """``decision`` with what is to be rounded, and what of that is to be written."""
    rounded = to_round(module, state.dag)
    written = state.dag.nodes(state.dag.chosen()) - copied_over(module)
    return replace(decision, rounded=rounded, marked=decision.marked | (rounded & written))


def _cheaper(
    module: torch.fx.GraphModule,
    decision: Decision,
    unrounded: State,
    attempt: Callable[[Decision], State | None],
) -> tuple[Decision, State | None]:
    """``decision`` and its dry run; where rounding costs bytes, perhaps with more of it written.

    A value that is rounded in registers makes each kernel larger that recomputes it, and Inductor
    cuts large ones; written, it is rounded for everyone by that.
    """
    after = attempt(decision)
    if after is not None and not _costs(after, unrounded):
        return decision, after
    more = decision.rounded & _recomputed(unrounded.dag) - copied_over(module)
    written = replace(decision, marked=decision.marked | more)
    if written == decision:
        return decision, after
    other = attempt(written)
    if other is None or (after is not None and not _costs(after, other)):
        return decision, after
    return written, other


def _recomputed(dag: Dag) -> frozenset[str]:
    """Nodes that more than one kernel computes, and that may be written."""
    kernels = Counter(i for one in moved(dag, dag.homes()) for i in one.computes)
    return dag.nodes({i for i, count in kernels.items() if count > 1} - dag.never)


def _costs(state: State, other: State) -> bool:
    return state.dag.measured > other.dag.measured


def _without_what_costs(
    decision: Decision,
    best: State,
    stock: State,
    attempt: Callable[[Decision], State | None],
) -> tuple[Decision, State]:
    """Stock's choice with as many of the roundings as cost nothing, by halves.

    A plan never moves more bytes than stock, not even to keep ``numerics="stored"``.
    """
    unrounded = replace(decision, rounded=frozenset(), marked=frozenset())
    kept, after = unrounded, best
    halves = _halved(sorted(decision.rounded))
    for _ in range(_TRIES):
        if not halves:
            break
        half = halves.pop(0)
        names = kept.rounded | frozenset(half)
        tried = replace(unrounded, rounded=names, marked=names & decision.marked)
        measured = attempt(tried)
        if measured is not None and not _costs(measured, stock):
            kept, after = tried, measured
        elif len(half) > 1:
            halves += _halved(half)
    log.info(
        "plan: %d of %d values are not rounded where they are stored, since that moves more bytes",
        len(decision.rounded - kept.rounded),
        len(decision.rounded),
    )
    return kept, after


def _halved(names: list[str]) -> list[list[str]]:
    middle = (len(names) + 1) // 2
    return [half for half in (names[:middle], names[middle:]) if half]
