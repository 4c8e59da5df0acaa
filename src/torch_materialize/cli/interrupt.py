"""Ctrl-C or SIGTERM in a command that has processes to end: once in order, twice at once."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console

__all__ = ["INTERRUPTED", "Stopped", "twice_is_now"]

#: The exit status of what Ctrl-C ended, as a shell gives it: 128 and the signal's number.
INTERRUPTED = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal asked the process to end; ``status`` is the exit status that says which."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.status = 128 + number


@contextlib.contextmanager
def twice_is_now(end: Callable[[], None]) -> Iterator[None]:
    """Inside the block the first signal raises :class:`Stopped`, and the second ends the process.

    Signals are Ctrl-C and the SIGTERM of ``timeout`` or a batch system.  ``end`` is what has to be
    done before, fast and on whatever line the program is; nothing else is: no traceback, no
    waiting.  After the first, one that comes while Python ends is ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may have a handler
        return

    def second(number: int, _frame: Any) -> None:
        end()
        # A bar may have hidden it.
        Console(stderr=True).show_cursor()
        os._exit(128 + number)

    def first(number: int, _frame: Any) -> None:
        for one in _SIGNALS:
            signal.signal(one, second)
            atexit.register(signal.signal, one, signal.SIG_IGN)
        raise Stopped(number)

    before = {one: signal.signal(one, first) for one in _SIGNALS}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
