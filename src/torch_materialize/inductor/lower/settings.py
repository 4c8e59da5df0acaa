"""Inductor's settings, changed for the calling thread alone.

From torch 2.12 on ``config.patch`` does that: settings are context variables.  Before, they are
one value for the process, and a compile in another thread would be made with ours; there the
entries that we change are taught to hold a value for each context, too.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from torch._inductor import config

__all__ = ["patched"]

_VALUE = "user_override"
_NAME = "_torch_materialize_name"
# What the entries that we taught are in this context, by name.
_here: ContextVar[Mapping[str, Any] | None] = ContextVar("torch_materialize_settings", default=None)
_lock = threading.Lock()
_taught: dict[type, type] = {}


def patched(changes: Mapping[str, Any]) -> contextlib.AbstractContextManager[Any]:
    """Inside the block these settings are changed, for this thread and what copies its context.

    Raises:
        KeyError: there is no such setting.
    """
    entries = {name: config._config[name] for name in changes}
    if all(isinstance(getattr(entry, _VALUE), ContextVar) for entry in entries.values()):
        return config.patch(dict(changes))
    return _in_this_context(entries, changes)


@contextlib.contextmanager
def _in_this_context(entries: Mapping[str, Any], changes: Mapping[str, Any]) -> Iterator[None]:
    for name, entry in entries.items():
        _teach(name, entry)
    token = _here.set({**(_here.get() or {}), **changes})
    try:
        yield
    finally:
        _here.reset(token)


def _teach(name: str, entry: Any) -> None:
    """Makes an entry look for a value of the context first; without one it is as before."""
    with _lock:
        kind = type(entry)
        if hasattr(kind, "torch_materialize"):
            return
        if kind not in _taught:
            _taught[kind] = type(
                kind.__name__, (kind,), {"torch_materialize": True, _VALUE: property(_get, _set)}
            )
        vars(entry)[_NAME] = name
        vars(entry).setdefault(_VALUE, getattr(entry, _VALUE))  # until set it is the class's
        entry.__class__ = _taught[kind]


def _get(entry: Any) -> Any:
    values = _here.get()
    name = vars(entry)[_NAME]
    return values[name] if values is not None and name in values else vars(entry)[_VALUE]


def _set(entry: Any, value: Any) -> None:
    values = _here.get()
    name = vars(entry)[_NAME]
    if values is not None and name in values:
        # Upstream's own patch, inside of ours, which it puts back.
        _here.set({**values, name: value})
    else:
        vars(entry)[_VALUE] = value
