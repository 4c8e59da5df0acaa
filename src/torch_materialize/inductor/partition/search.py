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
5. A budget may be for all that is alive at once (``memory=8GiB``).  Where stock's cut keeps to it,
   it changes nothing.  Else 2 and 3 get budgets from the largest that could be low enough down to
   the least, until what they choose keeps to it when it is lowered, and one between that and the
   budget before.  Of those that keep to it the one that moves the fewest bytes is taken.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from torch.fx import Node

from ...core.knapsack import choose
from ...core.policy import Policy, size_from, size_named
from ...core.saving import LoweredCut, Saving
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
# Budgets that are tried for a limit of what is alive.
_BUDGETS = 6


#: Lowers the halves of a cut.
Measure: TypeAlias = Callable[[Sequence[Node]], LoweredCut]
#: A cut, and what it recomputes: how many of each group, and the first of them.
Taken: TypeAlias = tuple[Cut, tuple[tuple[int, Node], ...]]


@dataclass(frozen=True)
class Chosen:
    """What is saved, and what that frees and costs."""

    saved: tuple[Node, ...]
    saving: Saving


def search(joint: Joint, policy: Policy, measure: Measure) -> Chosen | None:
    """What to save instead of what stock saves; None: nothing else.

    As ``policy`` says: the most of stock's bytes that may be saved (all of them without a share,
    for fewer bytes moved), the most bytes that may be alive at once, and for tests a random choice.
    ``measure`` lowers the halves of a cut, and remembers what it lowered.

    Raises:
        MemoryBudgetError: what the policy allows is out of reach.
    """
    base = cut(joint, ())
    if policy.peak is not None:
        alive = measure(base.saved if base else joint.saved).peak
        if alive > policy.peak:
            return _with_less_alive(joint, base, alive, policy.peak, measure)
    if base is None:
        return None
    stock_bytes = joint.saved_bytes(joint.saved)
    foresight, chosen = Foresight(joint, base), None
    if policy.limits == "random" and policy.memory is None:
        chosen = _drawn(joint, foresight, stock_bytes)
    elif stock_bytes >= (_SMALL if policy.limits == "usual" else 1):
        chosen = _looked_for(joint, foresight, stock_bytes, policy, measure)
    if chosen is None and joint.inlined:
        return Chosen(base.saved, Saving((), joint.saved_bytes(base.saved), stock_bytes, 0.0))
    return chosen


def _looked_for(
    joint: Joint,
    foresight: Foresight,
    stock_bytes: int,
    policy: Policy,
    measure: Measure,
) -> Chosen | None:
    """What to recompute besides what the model pins; None: nothing."""
    share, peak = policy.memory, policy.peak
    found = groups(joint, foresight, unfused=share is not None)
    one = within(joint, foresight, found, stock_bytes, stock_bytes * (share or 1.0))
    if one is None and share is not None:
        raise MemoryBudgetError(_out_of_reach(joint, found, stock_bytes, share))
    if one is None or not one[1]:
        return None
    taken, _ = one
    saving = _saving(joint, foresight, stock_bytes, one)
    if share is None:
        worth = _WORTH if policy.limits == "usual" else 0.0
        if -saving.foreseen < worth * foresight.base_cost:
            return None
        stock, ours = measure(foresight.base.saved), measure(taken.saved)
        if ours.moved >= stock.moved or (peak is not None and ours.peak > peak):
            return None
        saving = _as_lowered(saving, ours, stock)
    return Chosen(taken.saved, saving)


def _drawn(joint: Joint, foresight: Foresight, stock_bytes: int) -> Chosen | None:
    """A random choice, which may save and move any number of bytes: the same for the same graph."""
    found = groups(joint, foresight)
    generator = random.Random(len(joint.nodes))
    one = _taken(joint, found, [generator.randint(0, len(group.roots)) for group in found])
    if one is None or not one[1]:
        return None
    return Chosen(one[0].saved, _saving(joint, foresight, stock_bytes, one))


def _saving(joint: Joint, foresight: Foresight, stock_bytes: int, one: Taken) -> Saving:
    taken, dropped = one
    return Saving(
        tuple((count, node.name) for count, node in dropped),
        joint.saved_bytes(taken.saved),
        stock_bytes,
        foresight.more(taken),
    )


def _as_lowered(saving: Saving, ours: LoweredCut, stock: LoweredCut) -> Saving:
    return replace(
        saving, moved=ours.moved, stock_moved=stock.moved, peak=ours.peak, stock_peak=stock.peak
    )


def _with_less_alive(
    joint: Joint, base: Cut | None, alive: int, most: int, measure: Measure
) -> Chosen:
    """Of the cuts with no more than ``most`` bytes alive at once the one that moves the fewest.

    With stock's cut ``alive`` are; where ``base`` is None, there is no other.

    Raises:
        MemoryBudgetError: none was found.
    """
    if base is None:
        raise MemoryBudgetError(_too_much_alive(joint, most, [alive]))
    foresight, stock = Foresight(joint, base), measure(base.saved)
    stock_bytes = joint.saved_bytes(joint.saved)
    found = groups(joint, foresight)
    smallest = least(joint, found)
    floor = joint.saved_bytes(smallest[0].saved) if smallest else stock_bytes
    tried: dict[int, tuple[LoweredCut, Taken]] = {}

    def fits(budget: int) -> bool:
        one = within(joint, foresight, found, stock_bytes, budget)
        if one is None:
            return False
        tried[budget] = measure(one[0].saved), one
        return tried[budget][0].peak <= most

    # What is saved is not all that is alive, so that less of it lowers the peak by that at most;
    # and what is recomputed is alive as well, so that the least that is saved need not be best.
    highest = max(stock_bytes - (stock.peak - most), floor)
    near, everywhere = _between(highest, floor), _between(stock_bytes, floor)
    fitting = next(filter(fits, [*near, *everywhere]), None)
    if fitting is None:
        # Only what is tried for every limit can be had with another.
        peaks = [tried[budget][0].peak for budget in everywhere if budget in tried]
        raise MemoryBudgetError(_too_much_alive(joint, most, [alive, *peaks]))
    if fitting in near[1:]:
        fits((fitting + near[near.index(fitting) - 1]) // 2)
    lowered, one = min(
        (pair for pair in tried.values() if pair[0].peak <= most), key=lambda pair: pair[0].moved
    )
    saving = _saving(joint, foresight, stock_bytes, one)
    return Chosen(one[0].saved, _as_lowered(saving, lowered, stock))


def _between(highest: int, lowest: int) -> list[int]:
    """Budgets from the highest to the lowest, evenly spread."""
    steps = range(_BUDGETS)
    return list(dict.fromkeys(highest - (highest - lowest) * i // (_BUDGETS - 1) for i in steps))


def _too_much_alive(joint: Joint, most: int, alive: Sequence[int]) -> str:
    fewest = min(alive)
    return (
        f"memory={size_named(most)} cannot be had for a training step of {len(joint.nodes)} "
        f"nodes: {alive[0] / 1e6:.1f} MB are alive at once with stock's choice of what is saved "
        f"for the backward, inputs and outputs counted, and with {len(alive) - 1} others at least "
        f"{fewest / 1e6:.1f} MB. Name memory={size_from(fewest)} or more, or a smaller batch."
    )


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
