"""Python's garbage collector, held back while a graph is planned."""

from __future__ import annotations

import gc

__all__ = ["CollectingLater"]

# FX nodes that may be lowered between two collections: some hundred megabytes.
_NODES = 20_000


class CollectingLater:
    """A context in which only :meth:`lowered` collects.

    A dry run makes objects by the hundred thousand and drops hardly one before its end, so that
    each collection would walk over all of torch's own for nothing, half a second at a time.
    """

    def __init__(self) -> None:
        self._nodes = 0

    def __enter__(self) -> CollectingLater:
        self._collects = gc.isenabled()
        gc.disable()
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._collects:
            gc.enable()

    def lowered(self, nodes: int) -> None:
        """Notes a dry run of that many FX nodes, and collects what many of them have left."""
        self._nodes += nodes
        if self._collects and self._nodes > _NODES:
            self._nodes = 0
            gc.collect()
