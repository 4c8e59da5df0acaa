"""Which of many things to give up for room: a small integer program."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Lot", "choose"]

# Nodes of the solver's search, which is deterministic; programs of some dozen lots need a few.
_NODES = 2_000


@dataclass(frozen=True)
class Lot:
    """``count`` things that are alike: each frees ``room`` bytes (less than 0: takes them) and
    costs ``price`` bytes (less than 0: saves them).
    """

    count: int
    room: float
    price: float


def choose(lots: Sequence[Lot], wanted: float) -> list[int] | None:
    """How many of each lot to give up, so that ``wanted`` bytes are freed for the least price.

    None where all of them together do not free so much, or the solver found nothing in
    2,000 nodes.
    """
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    if not lots:
        return [] if wanted <= 0 else None
    rooms = np.array([lot.room for lot in lots])
    prices = np.array([lot.price for lot in lots])
    scale = max(1.0, float(np.abs(prices).max()), float(np.abs(rooms).max()))
    # Of equal prices the one that frees more.
    result = milp(
        c=(prices - 1e-6 * rooms) / scale,
        constraints=LinearConstraint(rooms[np.newaxis, :] / scale, wanted / scale, math.inf),
        integrality=np.ones(len(lots)),
        bounds=Bounds(0, np.array([lot.count for lot in lots])),
        options={"node_limit": _NODES},
    )
    return None if result.x is None else [round(x) for x in result.x]
