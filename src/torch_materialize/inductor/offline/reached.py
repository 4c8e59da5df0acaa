"""What a function or an object reaches by itself: through closures, attributes, containers."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["attributes", "global_values", "is_object", "is_run_by_a_step", "is_torchs", "reaches"]

_RUN_BY_A_STEP = torch.nn.Module | Optimizer | LRScheduler | GradScaler
# A container of more is data; nobody keeps so many models.
_MOST = 10_000


def is_run_by_a_step(value: Any) -> bool:
    """Whether a training step changes it: a model, an optimizer and the like, or a weight."""
    if isinstance(value, torch.Tensor):
        return value.requires_grad and value.is_leaf
    return isinstance(value, _RUN_BY_A_STEP)


def reaches(value: Any) -> bool:
    """Whether a value is, or holds, something that :func:`is_run_by_a_step`."""
    # The values stay alive while they are looked at, and with them their numbers.
    seen: dict[int, Any] = {}
    todo = [value]
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen[id(one)] = one
        if is_run_by_a_step(one):
            return True
        todo.extend(_held(one))
    return False


def is_object(value: Any) -> bool:
    """Whether it is an instance with attributes that can be copied with it."""
    if isinstance(value, type | ModuleType | FunctionType | MethodType | torch.Tensor):
        return False
    return hasattr(value, "__dict__") or bool(_slots(value))


def attributes(value: Any) -> dict[str, Any]:
    """An object's attributes: its own, and models and the like that its class holds for all."""
    own = {name: getattr(value, name) for name in _slots(value) if hasattr(value, name)}
    if not hasattr(value, "__dict__"):
        return own
    of_class = {
        name: held
        for kind in reversed(type(value).__mro__)
        for name, held in vars(kind).items()
        if isinstance(held, _RUN_BY_A_STEP | list | tuple | dict) and not name.startswith("__")
    }
    return of_class | own | vars(value)


def global_values(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function, or one inside it, finds in its module, by name."""
    home = function.__globals__
    if is_torchs(function):
        return
    for name in _names(function.__code__):
        value = home.get(name)
        # A function of another module is a library's: it is given what it works on.
        if name in home and (not isinstance(value, FunctionType) or value.__globals__ is home):
            yield name, value


def is_torchs(function: FunctionType) -> bool:
    """Whether a function is of torch: what torch wraps around a user's finds torch's own."""
    name: str = function.__globals__.get("__name__", "")
    return name.partition(".")[0] == "torch"


def _held(value: Any) -> Iterator[Any]:
    if isinstance(value, FunctionType):
        cells = (cell for cell in value.__closure__ or () if cell != CellType())
        yield from (cell.cell_contents for cell in cells)
        yield from value.__defaults__ or ()
        yield from (value.__kwdefaults__ or {}).values()
        yield from vars(value).values()
        yield from (held for _, held in global_values(value))
    elif isinstance(value, MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, list | tuple | set | dict):
        if len(value) <= _MOST:
            yield from value.values() if isinstance(value, dict) else value
    elif is_object(value):
        yield from attributes(value).values()


def _slots(value: Any) -> list[str]:
    found: list[str] = []
    for kind in type(value).__mro__:
        names = vars(kind).get("__slots__", ())
        found += [names] if isinstance(names, str) else names
    return [name for name in found if name not in ("__dict__", "__weakref__")]


def _names(code: CodeType) -> Iterator[str]:
    """The global names of a function, and of those inside it."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)
