"""The one limit by clock: an emergency that ends a search without a plan.

A clock that chose between plans would choose differently on a busy machine, and on the ranks of
one job.  So all that is usual is bounded by counts (:mod:`.limits`), and where those were not
enough nothing is decided at all.
"""

from __future__ import annotations

import math
import time

from ..errors import LeftToStockError

__all__ = ["FOREVER", "Deadline", "OutOfTime"]


class OutOfTime(LeftToStockError):
    """A search took longer than its emergency limit."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"planning took more than {seconds:g} s, so this graph is left to stock. The machine "
            "is very busy, or our limits do not fit the graph: then please report it."
        )


class Deadline:
    """When the emergency begins, in this process.

    Args:
        seconds: from now on.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until then.

        Raises:
            OutOfTime: none are left.
        """
        self.check()
        return self._end - time.monotonic()

    def check(self) -> None:
        """Nothing, before the deadline.

        Raises:
            OutOfTime: it has passed.
        """
        if time.monotonic() >= self._end:
            raise OutOfTime(self._seconds)


#: For callers that are no compile and may take any time.
FOREVER = Deadline(math.inf)
