"""The package's logger, and the one way in which a surprise of ours is reported."""

from __future__ import annotations

import logging
import os
import threading

__all__ = ["detailed", "log", "once", "strict", "surprise"]

log = logging.getLogger("torch_materialize")

_seen: set[str] = set()
_lock = threading.Lock()


def strict() -> bool:
    """Whether surprises raise instead of falling back to stock (``TORCH_MATERIALIZE_STRICT=1``).

    The tests run this way; users need it only to get a traceback for a bug report.
    """
    return os.environ.get("TORCH_MATERIALIZE_STRICT", "") not in ("", "0")


def detailed() -> bool:
    """Whether somebody asked this package for the details of its decisions, which take solves.

    It is asked by the level of our own logger, which ``TORCH_LOGS=+torch_materialize`` sets.  A
    program that logs all its libraries at DEBUG asks for what they say, not for more work.
    """
    return logging.NOTSET < log.level <= logging.DEBUG


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
