"""From the best trial lowering to what ships: its roundings are decided and measured, too.

What is to be rounded follows from the kernels (:mod:`..fx.rounding`), and rounding may change
them.  A plan is lowered with what its kernels should need; where the kernels that it got need
something else, it is lowered once more as it would ship, and what that moves counts: where
another plan is then better, that one is taken, and where nothing moves less than stock, stock's
choice.

In the end what crosses an opaque operator is written where that costs no bytes.  The pieces of a
graph that is cut there have to write it, so the kernels are then those of the pieces: rounded alike
is not yet summed up alike, since what else a kernel loads decides how long its vectors are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch

from ...core.candidates import Candidates, State
from ...core.dag import Dag, Kind, moved, written_again
from ...core.prices import worth_writing
from ...events import log
from ..fx.decision import Decision, with_rounding
from ..fx.rounding import across
from ..read.pin_nodes import is_written
from ..read.storage import copied_over

__all__ = ["as_cut", "settle"]

# Trial lowerings that may be spent on finding out which roundings cost bytes.
_TRIES = 6


def settle(
    module: torch.fx.GraphModule,
    candidates: Candidates,
    stock: State,
    unrounded: Callable[[State], Decision],
    attempt: Callable[[Decision], State | None],
    shipped: dict[int, tuple[Decision, State]],
) -> tuple[Decision, State]:
    """The best decision with its roundings, and its trial lowering.

    ``unrounded`` is the decision that a trial lowering was made of; ``attempt`` makes one, None
    where Inductor cannot.  With each round one candidate has been replaced by what it ships, so it
    ends; ``shipped`` remembers those from one call to the next.
    """
    while id(candidates.best) not in shipped:
        best = candidates.best
        decision = with_rounding(module, unrounded(best), best.dag)
        after: State | None = best
        if decision.rounded or best.rounded:
            decision, after = _cheapest(module, decision, best, attempt)
            decision, after = _rounded_enough(module, decision, after, attempt)
            if best.store is None and (after is None or _costs(after, stock)):
                decision, after = _without_what_costs(decision, best, stock, attempt)
            candidates.replace(best, after)
        if after is not None:
            shipped[id(after)] = decision, after
    return shipped[id(candidates.best)]


def as_cut(
    module: torch.fx.GraphModule,
    decision: Decision,
    settled: State,
    candidates: Candidates,
    attempt: Callable[[Decision], State | None],
    *,
    rounding: bool,
    better: bool = False,
) -> tuple[Decision, State]:
    """What is ``settled``, with what crosses opaque operators written if it costs no bytes.

    So is what would be written once for each operand of a reader.

    Where all of it costs some, what costs them is left out: that its own lowering shows.  So it
    found more in fewer lowerings than by halves (a Llama's forward: 0.9% fewer bytes, 12, not 16).
    Bytes decide, and the rules that forbid a plan: it is about what is promised, not about speed.
    ``rounding`` says whether what is rounded follows from the kernels (``numerics="stored"``), and
    ``better`` whether it has to move fewer bytes than before.
    """
    bare = replace(decision, rounded=frozenset(), marked=decision.store or frozenset())

    def written(names: frozenset[str]) -> Decision:
        return replace(bare, marked=bare.marked | names, casts=bare.casts | names)

    def fits(after: State) -> bool:
        is_good = _costs(settled, after) if better else not _costs(after, settled)
        return is_good and candidates.allow(after)

    again = settled.dag.nodes(written_again(settled.dag)) - settled.dag.nodes(settled.dag.never)
    crossing = _crossing(module, settled.dag) | again
    if not again and crossing <= settled.dag.nodes(settled.dag.homes()):
        return decision, settled
    final = written(crossing)
    after = attempt(final)
    if after is not None and not fits(after):
        fewer = worth_writing(after.dag, crossing, 0 if better else settled.dag.measured)
        final = written(fewer)
        after = attempt(final) if fewer else None
    if after is None or not fits(after):
        return decision, settled
    shipped: State | None = after
    if rounding:
        final, shipped = _rounded_enough(module, final, after, attempt)
    return (final, shipped) if shipped is not None and fits(shipped) else (decision, settled)


def _crossing(module: torch.fx.GraphModule, dag: Dag) -> frozenset[str]:
    """What crosses an opaque operator and may be written, what is written already with it.

    What Inductor wrote on its own account (there were many readers, say) it may leave out once
    others are marked.
    """
    free = dag.nodes(v.index for v in dag.values if v.kind is Kind.POINTWISE)
    pinned = {node.name for node in module.graph.nodes if is_written(node)}
    return (free & across(module, dag)) - dag.nodes(dag.never) - copied_over(module) - pinned


def _cheapest(
    module: torch.fx.GraphModule,
    decision: Decision,
    best: State,
    attempt: Callable[[Decision], State | None],
) -> tuple[Decision, State | None]:
    """``decision`` and its trial lowering, where that moves fewer bytes with more of it written.

    A value that is rounded in registers makes each kernel larger that recomputes it, and Inductor
    cuts large ones; written, it is rounded for everyone by that.  ``best`` may have been rounded
    like this, and costs bytes by it if it moves more than its plan foresaw.
    """
    if (decision.rounded, decision.marked) == (best.rounded, best.marked):
        after: State | None = best
        if not best.broke_promise:
            return decision, best
    else:
        after = attempt(decision)
        if after is not None and not _costs(after, best):
            return decision, after
    more = decision.rounded & _recomputed(best.dag) - copied_over(module)
    written = replace(decision, marked=decision.marked | more)
    if written == decision:
        return decision, after
    other = attempt(written)
    if other is None or (after is not None and not _costs(after, other)):
        return decision, after
    return written, other


def _rounded_enough(
    module: torch.fx.GraphModule,
    decision: Decision,
    after: State | None,
    attempt: Callable[[Decision], State | None],
) -> tuple[Decision, State | None]:
    """A decision and its lowering, with what the kernels of that lowering need rounded, too.

    Rounding may fuse otherwise, so that other values are stored, and a search would go round in
    circles if what was rounded before were not kept; without a lowering if no end is found.
    """
    for _ in range(_TRIES):
        if after is None:
            break
        needed = with_rounding(module, decision, after.dag)
        if needed.rounded <= decision.rounded:
            return decision, after
        decision = replace(needed, rounded=needed.rounded | decision.rounded)
        after = attempt(decision)
    return decision, None


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

    def rounding(names: frozenset[str]) -> Decision:
        return replace(unrounded, rounded=names, marked=names & decision.marked)

    names, after = _as_many(
        _halved(sorted(decision.rounded)), rounding, attempt, lambda state: not _costs(state, stock)
    )
    log.info(
        "plan: %d of %d values are not rounded where they are stored, since that moves more bytes",
        len(decision.rounded - names),
        len(decision.rounded),
    )
    return rounding(names), after or best


def _as_many(
    parts: Iterable[list[str]],
    decide: Callable[[frozenset[str]], Decision],
    attempt: Callable[[Decision], State | None],
    fits: Callable[[State], bool],
) -> tuple[frozenset[str], State | None]:
    """Of some parts of names those whose lowering still fits, by halves; and that lowering."""
    kept, found = frozenset[str](), None
    left = list(parts)
    for _ in range(_TRIES):
        if not left:
            break
        part = left.pop(0)
        after = attempt(decide(kept | frozenset(part)))
        if after is not None and fits(after):
            kept, found = kept | frozenset(part), after
        elif len(part) > 1:
            left += _halved(part)
    return kept, found


def _halved(names: list[str]) -> list[list[str]]:
    middle = (len(names) + 1) // 2
    return [half for half in (names[:middle], names[middle:]) if half]
