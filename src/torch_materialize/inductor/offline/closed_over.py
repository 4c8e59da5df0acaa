"""What a function reaches without being given it: its models and optimizers, as fake copies.

A training step is a function that finds its model, optimizer and gradient scaler where it was
written, in a closure, a module's globals or an object's attributes.  Tracing runs it, and its
``.backward()``, ``.step()`` and ``.update()`` would leave fake tensors in the user's own.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import CellType, FunctionType, MethodType
from typing import Any

import torch
from torch._dynamo import trace_rules
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.amp import GradScaler
from torch.optim.lr_scheduler import LRScheduler

from ...errors import CaptureError, brief
from .reached import attributes, global_values, is_object, is_run_by_a_step, is_torchs, reaches

__all__ = ["Copies"]

# What Dynamo's wrapper of a function has as long as it is no copy.
_OWN_ID = "_torchdynamo_wrapper_id"


@dataclass
class Copies:
    """Fake copies of what is reached; what is met twice is one copy, so that all fit together.

    ``faked`` makes the fake of one tensor, on the CPU.
    """

    mode: FakeTensorMode
    faked: Callable[[torch.Tensor], torch.Tensor]
    _memo: dict[int, Any] = field(default_factory=dict)
    _made: dict[int, Any] = field(default_factory=dict)
    _globals: dict[int, dict[str, Any]] = field(default_factory=dict)

    def of(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The callable on copies of what it reaches.

        Raises:
            CaptureError: a model, an optimizer or what holds one cannot be copied.
        """
        original: Any = function
        if not getattr(function, "_torchdynamo_disable", False):
            original = getattr(function, "_torchdynamo_orig_callable", function)
        if isinstance(original, MethodType):
            return MethodType(self._function(original.__func__), self._object(original.__self__))
        if isinstance(original, FunctionType):
            return self._function(original)
        if type(original) is functools.partial:
            func, named = self.value(original.func), self.value(original.keywords)
            return functools.partial(func, *self.value(original.args), **named)
        return self._object(original) if reaches(original) else original

    def value(self, value: Any) -> Any:
        """A value, or a copy of it with copies of the models and optimizers that it holds.

        Containers are always copied: a step may leave what it computed there.

        Raises:
            CaptureError: one of them, or what holds it, cannot be copied.
        """
        if isinstance(value, torch.nn.Module):
            value = getattr(value, "_orig_mod", value)
        if is_run_by_a_step(value):
            return self._run_by_a_step(value)
        if isinstance(value, FunctionType | MethodType | functools.partial):
            return self.of(value)
        if type(value) in (list, tuple, set, dict) or reaches(value):
            return self._object(value)
        return value

    def _function(self, function: Any) -> Any:
        if not isinstance(function, FunctionType) or _known_by_identity(function):
            return function
        if id(function) in self._made:
            return self._made[id(function)]
        home = function.__globals__
        reached = home
        if not is_torchs(function):
            reached = self._globals.setdefault(id(home), dict(home))
        cells = tuple(CellType() for _ in function.__closure__ or ())
        made = FunctionType(function.__code__, reached, function.__name__, None, cells)
        self._made[id(function)] = made
        made.__qualname__ = function.__qualname__
        made.__defaults__ = self.value(function.__defaults__)
        made.__kwdefaults__ = self.value(function.__kwdefaults__)
        for cell, original in zip(cells, function.__closure__ or (), strict=True):
            if original != CellType():
                cell.cell_contents = self.value(original.cell_contents)
        # Among them is what Dynamo goes by: that it is disabled, or a region of its own.
        vars(made).update(self.value(vars(function)))
        if hasattr(made, _OWN_ID):
            setattr(made, _OWN_ID, id(made))
        for name, value in global_values(function):
            reached[name] = self.value(value)
        return made

    def _object(self, value: Any) -> Any:
        """A container or an object, with copies of what it holds."""
        if is_run_by_a_step(value):
            return self.value(value)
        if isinstance(value, tuple):
            held = map(self.value, value)
            return type(value)._make(held) if hasattr(value, "_make") else type(value)(held)
        if id(value) not in self._made:
            self._fill(value, self._copied(value))
        return self._made[id(value)]

    def _copied(self, value: Any) -> Any:
        """A copy that still holds the same."""
        try:
            made = copy.copy(value)
        except Exception as error:
            raise _not_copied(value, error) from error
        self._made[id(value)] = made
        return made

    def _fill(self, value: Any, made: Any) -> None:
        if made is value:
            return  # a class, a name, a lock: there is only one
        if isinstance(value, dict):
            made.update({key: self.value(held) for key, held in value.items()})
        elif isinstance(value, list):
            made[:] = map(self.value, value)
        elif isinstance(value, set):
            made.clear()
            made.update(map(self.value, value))
        for name, held in attributes(value).items() if is_object(value) else ():
            copied = self.value(held)
            if copied is not held:
                object.__setattr__(made, name, copied)

    def _run_by_a_step(self, value: Any) -> Any:
        for tensor in _tensors(value):
            if id(tensor) not in self._memo:
                fake = self.faked(tensor.detach())
                is_parameter = isinstance(tensor, torch.nn.Parameter)
                made = torch.nn.Parameter(fake, False) if is_parameter else fake
                self._memo[id(tensor)] = made.requires_grad_(tensor.requires_grad)
        try:
            # Under the mode, the clones that a deep copy makes have no memory.  A scaler's copy is
            # made from the value of its scale, which only its own tensor has.
            with contextlib.nullcontext() if isinstance(value, GradScaler) else self.mode:
                return copy.deepcopy(value, self._memo)
        except Exception as error:
            raise _not_copied(value, error) from error


def _not_copied(value: Any, error: Exception) -> CaptureError:
    return CaptureError(
        f"the function uses a {type(value).__name__} that could not be copied: "
        f"{brief(error)}. Tracing would run it on the original; let a function of a file "
        "build it for `torch-materialize explain FILE.py:FUNCTION`."
    )


def _known_by_identity(function: Any) -> bool:
    """Whether Dynamo has a function in a list, where a copy of it would not be."""
    lists = (
        trace_rules.is_callable_allowed,
        trace_rules.is_callable_disallowed,
        trace_rules.is_leaf_function,
        trace_rules.is_nonstrict_trace_callable,
    )
    return any(lists_it(function) for lists_it in lists)


def _tensors(value: Any) -> Iterable[torch.Tensor]:
    """What a model, an optimizer (its own state, too) or its schedule holds."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, torch.nn.Module):
        return [*value.parameters(), *value.buffers()]
    if isinstance(value, GradScaler):
        return []  # it makes them anew
    optimizer = value.optimizer if isinstance(value, LRScheduler) else value
    held = [p for group in optimizer.param_groups for p in group["params"]]
    states = (state for state in optimizer.state.values() if isinstance(state, dict))
    kept = [x for state in states for x in state.values() if isinstance(x, torch.Tensor)]
    return [*held, *kept]
