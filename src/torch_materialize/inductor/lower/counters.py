"""What a trial lowering counts and numbers, kept apart from what the process does.

Inductor counts in globals: the attributes of ``torch._inductor.metrics``, Dynamo's ``counters``
and two numberings of graphs.  Putting back what a trial lowering counted would take away what
another thread counted meanwhile, so nothing is put back: while a trial lowering is on, these
objects check which thread counts, and its thread counts on a sheet of its own.  That is thrown
away, unless the trial lowering turns out to be what ships (:mod:`.handover`).
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections import Counter
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch._inductor.graph
import torch._inductor.scheduler
from torch._dynamo.utils import counters
from torch._inductor import metrics

__all__ = ["Sheet", "counting_apart"]

_NUMBERING = "_post_grad_graph_counter"
# Attribute of a counter that is there because a trial lowering counts.
_MADE = "_torch_materialize_made"
_COLLECTED = (int, float, list, dict, set)

_lock = threading.Lock()
_users = 0


class Sheet(dict[Any, Any]):
    """What a trial lowering has counted, by where it belongs: the values as they would be now."""

    def __init__(self, values: dict[Any, Any]) -> None:
        super().__init__(values)
        self._before = dict(values)
        self._groups: dict[int, str] = {}

    def begin(self, key: Any, value: Any) -> None:
        """Notes a value before it is changed for the first time."""
        self._before.setdefault(key, value)
        self.setdefault(key, copy.copy(value))

    def end(self) -> None:
        """Notes whose the counters are: those that were made meanwhile may go."""
        self._groups = {id(counter): group for group, counter in counters.items()}

    def count(self) -> None:
        """Counts the same in this thread, as a lowering would have; of metrics the numbers.

        Lowering and scheduling count nothing else: lists of metrics are of generated code.
        """
        for key, now in self.items():
            where, name = key
            if where == "number" or not isinstance(now, int | float):
                continue
            more = now - self._before[key]
            if where == "metrics":
                setattr(metrics, name, getattr(metrics, name) + more)
            elif more and where in self._groups:  # else somebody has cleared the counters
                counters[self._groups[where]][name] += more


class _Here(threading.local):
    """What this thread's trial lowering has counted; None outside of one."""

    sheet: Sheet | None = None


_here = _Here()


class _Metrics(ModuleType):
    """The class of ``torch._inductor.metrics`` meanwhile."""

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        sheet = _here.sheet
        if sheet is None or name.startswith("_") or not isinstance(value, _COLLECTED):
            return value
        sheet.begin(("metrics", name), value)
        return sheet["metrics", name]

    def __setattr__(self, name: str, value: Any) -> None:
        if _here.sheet is None:
            super().__setattr__(name, value)
        else:
            _here.sheet.begin(("metrics", name), super().__getattribute__(name))
            _here.sheet["metrics", name] = value


class _Counter(Counter[Any]):
    """The class of each of Dynamo's counters meanwhile."""

    def __getitem__(self, key: Any) -> int:
        sheet = _here.sheet
        if sheet is not None and (id(self), key) in sheet:
            return int(sheet[id(self), key])
        return super().__getitem__(key)

    def get(self, key: Any, default: Any = None) -> Any:
        sheet = _here.sheet
        if sheet is not None and (id(self), key) in sheet:
            return sheet[id(self), key]
        return super().get(key, default)

    def __setitem__(self, key: Any, value: int) -> None:
        if _here.sheet is None:
            super().__setitem__(key, value)
        else:
            _here.sheet.begin((id(self), key), super().__getitem__(key))
            _here.sheet[id(self), key] = value

    def update(self, *args: Any, **kwargs: int) -> None:
        if _here.sheet is None:
            super().update(*args, **kwargs)
            return
        for key, value in Counter(*args, **kwargs).items():
            self[key] += value


def _new_counter() -> _Counter:
    made = _Counter()
    if _here.sheet is not None:
        # For a trial lowering; it goes again, unless other threads count in it.
        setattr(made, _MADE, True)
    return made


class _Numbering:
    """Stands in for a numbering of graphs; those of a trial lowering are numbered from 0."""

    def __init__(self, upstream: Iterator[int]) -> None:
        self.upstream = upstream

    def __iter__(self) -> _Numbering:
        return self

    def __next__(self) -> int:
        sheet = _here.sheet
        if sheet is None:
            return next(self.upstream)
        sheet["number", id(self)] = number = sheet.get(("number", id(self)), -1) + 1
        return int(number)


_NUMBERED = (torch._inductor.graph, torch._inductor.scheduler)


@contextlib.contextmanager
def counting_apart() -> Iterator[Sheet]:
    """Inside the block nothing that this thread counts is seen by anybody else, or later.

    It stands on the sheet.
    """
    outer = _here.sheet
    _teach()
    # The graphs of a trial lowering within another are numbered anew.
    kept = {key: value for key, value in (outer or {}).items() if key[0] != "number"}
    _here.sheet = sheet = Sheet({key: copy.copy(value) for key, value in kept.items()})
    try:
        yield sheet
    finally:
        sheet.end()
        _here.sheet = outer
        _unteach()


def _teach() -> None:
    global _users  # noqa: PLW0603 - one count of one process
    with _lock:
        _users += 1
        metrics.__class__ = _Metrics
        # A list, since another thread may add one.  What the trial lowering adds is dropped with
        # it.
        for counter in list(counters.values()):
            if type(counter) is Counter:
                counter.__class__ = _Counter
        counters.default_factory = _new_counter
        for module in _NUMBERED:
            numbering = getattr(module, _NUMBERING)
            if not isinstance(numbering, _Numbering):
                setattr(module, _NUMBERING, _Numbering(numbering))


def _unteach() -> None:
    global _users  # noqa: PLW0603 - one count of one process
    with _lock:
        _users -= 1
        if _users:
            return
        metrics.__class__ = ModuleType
        counters.default_factory = Counter
        for name, counter in list(counters.items()):
            if type(counter) is _Counter:
                counter.__class__ = Counter  # type: ignore[assignment]
                if not counter and vars(counter).pop(_MADE, False):
                    counters.pop(name, None)
        for module in _NUMBERED:
            numbering = getattr(module, _NUMBERING)
            if isinstance(numbering, _Numbering):
                setattr(module, _NUMBERING, numbering.upstream)
