"""The choice of what a forward saves for its backward.

In one page.  Stock's choice is AOTAutograd's minimum cut, which takes a value that loops can
compute to cost nothing, unless an unfused kernel of the backward reads it: then it is saved.

1. What stock saves is grouped by what is alike in repeated layers, and for each group it is
   foreseen how many bytes of memory are freed, and how many more are moved, if it is recomputed
   (:mod:`.foresee`).
2. A small integer program takes from the groups what frees enough at the least price: enough for
   the budget (``memory=``), or without one whatever moves fewer bytes and saves no more.
3. What values are recomputed from is saved instead where stock does not, so the choice may free
   less than its groups: then more is wanted of the program, at most eight times.  Where even that
   is not enough, all is recomputed that can be, and group after group is saved again.
4. Without a budget, forward and backward are lowered for stock's cut and for the other, and the
   other is taken only if it moves fewer bytes.  With a budget it is taken as foreseen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from torch.fx import Node

from ...core.knapsack import choose
from ...core.saving import Saving
from ...core.traffic import Traffic
from ...errors import MemoryBudgetError
from .cut import Cut, cut
from .foresee import Foresight
from .joint import Joint
from .lots import Group, groups

__all__ = ["Chosen", "Taken", "least", "search", "within"]

_ATTEMPTS = 8
# Share of what the backward reads and writes that must be foreseen to be saved before a cut other
# than stock's is lowered, which takes as long as lowering the graph does.
_WORTH = 0.005
# A budget of less than this decides nothing: bytes.
_SMALL = 1 << 20


#: A cut, and what it recomputes: how many of each group, and the first of them.
Taken: TypeAlias = tuple[Cut, tuple[tuple[int, Node], ...]]


@dataclass(frozen=True)
class Chosen:
    """What is saved, and what that frees and costs."""

    saved: tuple[Node, ...]
    saving: Saving


def search(
    joint: Joint, share: float | None, measure: Callable[[Sequence[Node]], Traffic]
) -> Chosen | None:
    """What to save instead of what stock saves; None: nothing else.

    ``share`` is the most of stock's bytes that may be saved; None: all of them, for fewer bytes
    moved.  ``measure`` lowers the halves of a cut.

    Raises:
        MemoryBudgetError: ``share`` is out of reach.
    """
    base = cut(joint, ())
    if base is None:
        return None
    stock_bytes = joint.saved_bytes(joint.saved)
    chosen = None
    if stock_bytes >= _SMALL:
        chosen = _looked_for(joint, Foresight(joint, base), stock_bytes, share, measure)
    if chosen is None and joint.inlined:
        return Chosen(base.saved, Saving((), joint.saved_bytes(base.saved), stock_bytes, 0.0))
    return chosen


def _looked_for(
    joint: Joint,
    foresight: Foresight,
    stock_bytes: int,
    share: float | None,
    measure: Callable[[Sequence[Node]], Traffic],
) -> Chosen | None:
    """What to recompute besides what the model pins; None: nothing."""
    found = groups(joint, foresight, unfused=share is not None)
    one = within(joint, foresight, found, stock_bytes, stock_bytes * (share or 1.0))
    if one is None and share is not None:
        raise MemoryBudgetError(_out_of_reach(joint, found, stock_bytes, share))
    if one is None or not one[1]:
        return None
    taken, dropped = one
    saving = Saving(
        tuple((count, node.name) for count, node in dropped),
        joint.saved_bytes(taken.saved),
        stock_bytes,
        foresight.more(taken),
    )
    if share is None:
        if -saving.foreseen < _WORTH * foresight.base_cost:
            return None
        stock_moved, moved = measure(foresight.base.saved), measure(taken.saved)
        if moved.bytes >= stock_moved.bytes:
            return None
        saving = replace(saving, moved=moved.bytes, stock_moved=stock_moved.bytes)
    return Chosen(taken.saved, saving)


def within(
    joint: Joint, foresight: Foresight, found: Sequence[Group], stock_bytes: int, budget: float
) -> Taken | None:
    """The cut that is foreseen to cost the least of those that save no more than ``budget``.

    None where that is out of reach.
    """
    wanted = stock_bytes - budget
    for _ in range(_ATTEMPTS):
        counts = choose([group.lot for group in found], wanted)
        one = _taken(joint, found, counts) if counts is not None else None
        if one is None:
            break
        over = joint.saved_bytes(one[0].saved) - budget
        if over <= 0:
            return one
        wanted += over
    return _from_least(joint, foresight, found, budget)


def _taken(joint: Joint, found: Sequence[Group], counts: Sequence[int]) -> Taken | None:
    """The cut without so many of each group; the first layers' are kept the longest."""
    pairs = [(group, count) for group, count in zip(found, counts, strict=True) if count]
    one = cut(joint, [root for group, count in pairs for root in group.roots[:count]])
    return (one, tuple((count, group.roots[0]) for group, count in pairs)) if one else None


def _from_least(
    joint: Joint, foresight: Foresight, found: Sequence[Group], budget: float
) -> Taken | None:
    """What the program cannot see: several groups together may free more than each alone does,
    where the one is recomputed from the other.

    All is recomputed that can be, and then group after group is saved again, first what costs the
    most for each byte, while that keeps to the budget and costs no more.
    """
    counts = _all_that_free(found)
    best = _taken(joint, found, counts)
    if best is None or joint.saved_bytes(best[0].saved) > budget:
        return None
    cost = foresight.cost(best[0])
    dearest = sorted(range(len(found)), key=lambda i: -_price_of_a_byte(found[i]))
    for place in dearest:
        while counts[place]:
            # All of a group, or else half of what is left of it.
            for fewer in sorted({0, counts[place] // 2}):
                tried = [*counts[:place], fewer, *counts[place + 1 :]]
                one = _taken(joint, found, tried)
                if one is None or joint.saved_bytes(one[0].saved) > budget:
                    continue
                lower = foresight.cost(one[0])
                if lower <= cost:
                    best, counts, cost = one, tried, lower
                    break
            else:
                break
    return best


def _price_of_a_byte(group: Group) -> float:
    return group.lot.price / group.lot.room if group.lot.room > 0 else 0.0


def least(joint: Joint, found: Sequence[Group]) -> Taken | None:
    """The cut that saves the fewest bytes: everything is recomputed that can be."""
    return _taken(joint, found, _all_that_free(found))


def _all_that_free(found: Sequence[Group]) -> list[int]:
    """All of each group that frees something."""
    return [len(group.roots) if group.lot.room > 0 else 0 for group in found]


def _out_of_reach(joint: Joint, found: Sequence[Group], stock_bytes: int, share: float) -> str:
    smallest = least(joint, found)
    left = joint.saved_bytes(smallest[0].saved if smallest else joint.saved)
    # Rounded up, so that what is named can be had.
    possible = min(1.0, (left * 1000 // stock_bytes + 1) / 1000)
    return (
        f"memory={share:g} cannot be had for a graph of {len(joint.nodes)} nodes: stock's forward "
        f"saves {stock_bytes / 1e6:.1f} MB for its backward, and with all recomputed that can be "
        f"it would still save {left / 1e6:.1f} MB. Name memory={possible:g} or more."
    )
