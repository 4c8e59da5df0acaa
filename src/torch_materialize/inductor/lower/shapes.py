"""Lets a trial lowering reason about sizes as a real lowering does, and leave nothing of it behind.

Lowering compares sizes through a graph's ShapeEnv, and each answer may add a guard, replace a
symbol by another or by a number, narrow a range, or make a new symbol.  A trial lowering that did
so would take the guard away from the lowering that counts: that one is answered from what is
known already, and the code that ships holds for the first size only.  So a trial lowering works
on a copy of everything that the ShapeEnv knows, and with caches of its own.

The object stays the same, since every symbolic size of the graph points to it.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import itertools
import logging
from collections.abc import Iterator
from typing import Any

from torch.fx.experimental import symbolic_shapes
from torch.utils._ordered_set import OrderedSet

__all__ = ["scratch_shapes"]

# What a symbolic size remembers by the number of the ShapeEnv's state must not be taken for what
# a trial lowering knew, nor the other way round: states of trial lowerings have numbers that no
# compile reaches.
_VERSIONS = itertools.count(1 << 40, 1 << 20)
_VERSION_COUNTERS = ("_version_counter", "_replacements_version_counter")
# Guards of a trial lowering are never installed: nothing is to check or to count them, or to warn
# that they come too late.
_NOT_INSTALLED = {
    "frozen": False,
    "_error_on_new_guards": False,
    "_translation_validation_enabled": False,
    "should_record_events": False,
    "check_recorded_events": False,
}
_silent = logging.Logger("torch_materialize.trial_lowering", logging.CRITICAL + 1)


@contextlib.contextmanager
def scratch_shapes(fake_mode: Any) -> Iterator[None]:
    """Inside the block what is learned about sizes is forgotten at its end.

    Everything that the mode's ShapeEnv holds is as it was afterwards: guards, symbols and their
    numbers, ranges, replacements, runtime assertions, and the answers that it remembers.
    """
    env = fake_mode.shape_env
    if env is None:
        yield
        return
    kind, kept, epoch = type(env), dict(vars(env)), fake_mode.epoch
    version = next(_VERSIONS)
    scratch = {name: _copied(value) for name, value in kept.items()}
    scratch |= {name: version for name in _VERSION_COUNTERS if name in kept}
    scratch |= {name: value for name, value in _NOT_INSTALLED.items() if name in kept}
    if "log" in kept:
        scratch["log"] = _silent
    try:
        env.__class__ = _with_own_caches(kind)
        vars(env).update(scratch)
        # A tensor that remembers a symbol made here remembers the epoch, too.
        fake_mode.epoch = version
        yield
    finally:
        fake_mode.epoch = epoch
        vars(env).clear()
        vars(env).update(kept)
        env.__class__ = kind
        _forget(_with_own_caches(kind))


def _copied(value: Any) -> Any:
    """A copy of the containers in a value, and of what can be changed in place; else itself."""
    if isinstance(value, dict):
        copied = copy.copy(value)
        for key, inner in value.items():
            copied[key] = _copied(inner)
        return copied
    if isinstance(value, list):
        return [_copied(inner) for inner in value]
    if isinstance(value, set | OrderedSet):
        return copy.copy(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return value if value.__dataclass_params__.frozen else copy.copy(value)  # type: ignore[attr-defined]
    return value


_classes: dict[type, type] = {}


def _with_own_caches(kind: type) -> type:
    """A subclass of a ShapeEnv whose methods remember nothing of what the class's own do.

    Upstream remembers answers by the ShapeEnv itself, in caches of the class: that a guard was
    added, for example, which would then not be added again.
    """
    if kind not in _classes:
        own: dict[str, Any] = {}
        for base in reversed(kind.__mro__):
            own |= {n: _afresh(m) for n, m in vars(base).items() if hasattr(m, "cache_clear")}
        _classes[kind] = type(kind.__name__, (kind,), {"__module__": kind.__module__, **own})
    return _classes[kind]


def _afresh(method: Any) -> Any:
    """A method with an empty cache, of the same kind as the one that it has."""
    function = method
    while hasattr(function, "cache_clear"):
        function = function.__wrapped__
    if hasattr(method, "cache_parameters"):
        return functools.lru_cache(**method.cache_parameters())(function)
    # Upstream's own kind, which is emptied whenever the ShapeEnv has learned something.
    return symbolic_shapes._lru_cache(function)


def _forget(kind: type) -> None:
    for method in vars(kind).values():
        if hasattr(method, "cache_clear"):
            method.cache_clear()
