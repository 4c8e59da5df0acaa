"""Which policy is on, for whom, and who put it there.  Pure state; imports no torch.

Two scopes: a stack for the whole process (``enable``; the latest that is not undone wins) and
a context variable for the block of one thread (``policy``; it wins over the process).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextvars import ContextVar, Token
from dataclasses import dataclass

from .core.policy import Policy

__all__ = [
    "Entry",
    "block",
    "clear",
    "current",
    "entries",
    "given_up",
    "hold",
    "is_given_up",
    "needed",
    "pop",
    "push",
    "release",
]


@dataclass(frozen=True, eq=False)
class Entry:
    """One call that put a policy on, and where it stands (``file:line`` or a variable)."""

    policy: Policy
    origin: str


_lock = threading.RLock()
_stack: list[Entry] = []
_blocks = 0
_held: set[int] = set()
_block: ContextVar[Policy | None] = ContextVar("torch_materialize_block", default=None)
_given_up: ContextVar[bool] = ContextVar("torch_materialize_given_up", default=False)


def current() -> Policy | None:
    """The policy for a compile that starts now in this thread; None where none was set."""
    inner = _block.get()
    if inner is not None:
        return inner
    with _lock:
        return _stack[-1].policy if _stack else None


def entries() -> tuple[Entry, ...]:
    """The process-wide entries, oldest first."""
    with _lock:
        return tuple(_stack)


def push(policy: Policy, origin: str) -> Entry:
    """Puts a policy on for the whole process."""
    entry = Entry(policy, origin)
    with _lock:
        _stack.append(entry)
    return entry


def pop(entry: Entry) -> bool:
    """Takes one entry out, wherever it stands; False when it was out already."""
    with _lock:
        if entry not in _stack:
            return False
        _stack.remove(entry)
        return True


@contextlib.contextmanager
def given_up() -> Iterator[None]:
    """Inside the block graphs are compiled as stock compiles them, whatever governs them."""
    token = _given_up.set(True)
    try:
        yield
    finally:
        _given_up.reset(token)


def is_given_up() -> bool:
    """Whether the graph that is compiled in this context is stock's after all."""
    return _given_up.get()


def hold(token: int) -> None:
    """Notes that a graph needs the hooks beyond every scope, until it is lowered."""
    with _lock:
        _held.add(token)


def release(token: int) -> bool:
    """Ends one :func:`hold`; False when there was none."""
    with _lock:
        if token not in _held:
            return False
        _held.discard(token)
        return True


def needed() -> bool:
    """Whether anything still needs the hooks in place."""
    with _lock:
        return bool(_stack) or _blocks > 0 or bool(_held)


def clear() -> None:
    """Forgets every process-wide entry and hold; open blocks stay."""
    with _lock:
        _stack.clear()
        _held.clear()


class block:
    """Puts a policy on for this thread (and what copies its context) until the block ends."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._token: Token[Policy | None] | None = None

    def __enter__(self) -> Policy:
        global _blocks  # noqa: PLW0603 - one count of one process
        with _lock:
            _blocks += 1
        self._token = _block.set(self._policy)
        return self._policy

    def __exit__(self, *exc: object) -> None:
        global _blocks  # noqa: PLW0603 - one count of one process
        with _lock:
            _blocks -= 1
        if self._token is not None:
            # A generator may be closed in another context than it was opened in; the value
            # set there went with that context.
            with contextlib.suppress(ValueError):
                _block.reset(self._token)
