"""The package's logger, and the one way in which a surprise of ours is reported."""

from __future__ import annotations

import logging
import os
import threading

__all__ = ["count", "counted", "detailed", "log", "once", "planned", "strict", "surprise"]

log = logging.getLogger("torch_materialize")

_seen: set[str] = set()
_graphs = [0, 0]
# Bytes and fused kernels of the graphs that were planned, and the same of stock.
_moved = [0, 0, 0, 0]
_lock = threading.Lock()


def strict() -> bool:
    """Whether surprises raise instead of falling back to stock (``TORCH_MATERIALIZE_STRICT=1``).

    The tests run this way; users need it only to get a traceback for a bug report.
    """
    return os.environ.get("TORCH_MATERIALIZE_STRICT", "") not in ("", "0")


def detailed() -> bool:
    """Whether the details of decisions, which take solves, are wanted of this package.

    The level of our own logger says so, which ``TORCH_LOGS=+torch_materialize`` sets.  A program
    that logs all its libraries at DEBUG wants what they log, not more work.
    """
    return logging.NOTSET < log.level <= logging.DEBUG


def count(*, acted: bool, moved: tuple[int, int, int, int] = (0, 0, 0, 0)) -> None:
    """Notes that a graph was planned, and whether the plan is another choice than stock's.

    ``moved`` is bytes and kernels as planned, and the same of stock.
    """
    with _lock:
        _graphs[0] += 1
        _graphs[1] += acted
        for place, one in enumerate(moved):
            _moved[place] += one


def counted() -> tuple[int, int]:
    """How many graphs this process has planned, and in how many of them the plan acted."""
    with _lock:
        return _graphs[0], _graphs[1]


def planned() -> tuple[int, ...]:
    """Of all graphs that this process has planned: how many, bytes and fused kernels as planned,
    and the same of stock.
    """
    with _lock:
        return (_graphs[0], *_moved)


def once(key: str, level: int, message: str, *args: object) -> None:
    """Logs a message one time per process and key."""
    with _lock:
        if key in _seen:
            return
        _seen.add(key)
    log.log(level, message, *args)


def surprise(seam: str, error: BaseException) -> None:
    """Reports an exception inside our own code, once per place; the compile goes on as stock.

    Raises:
        The exception itself, in strict mode.
    """
    if strict():
        raise error
    # Only reached when torch is loaded; imported late so that this module needs none.
    import torch

    once(
        f"surprise:{seam}",
        logging.WARNING,
        "torch-materialize failed at %s under torch %s, so Inductor decides as stock: %s: %s. "
        "Set TORCH_MATERIALIZE_STRICT=1 for the traceback.",
        seam,
        torch.__version__,
        type(error).__name__,
        error,
    )
