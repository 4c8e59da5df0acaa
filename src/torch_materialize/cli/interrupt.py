"""Ctrl-C in a command that has processes to end: once in order, twice at once."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console

__all__ = ["INTERRUPTED", "twice_is_now"]

#: The exit status of what Ctrl-C ended, as a shell gives it: 128 and the signal's number.
INTERRUPTED = 130


@contextlib.contextmanager
def twice_is_now(end: Callable[[], None]) -> Iterator[None]:
    """Inside the block the first Ctrl-C is a KeyboardInterrupt, and the second ends the process.

    ``end`` is what has to be done before, fast and on whatever line the program is; nothing else
    is: no traceback, no waiting.  After the first, one that comes while Python ends is ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may have a handler
        return

    def second(_number: int, _frame: Any) -> None:
        end()
        # A bar may have hidden it.
        Console(stderr=True).show_cursor()
        os._exit(INTERRUPTED)

    def first(_number: int, _frame: Any) -> None:
        signal.signal(signal.SIGINT, second)
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
