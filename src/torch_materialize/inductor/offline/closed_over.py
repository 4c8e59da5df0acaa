"""What a function reaches without being given it: its models and optimizers, as fake copies.

A training step is a function that finds its model, optimizer and gradient scaler where it was
written, in a closure, a module's globals or an object's attributes.  Tracing runs it, and its
``.backward()``, ``.step()`` and ``.update()`` would leave fake tensors in the user's own.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch._dynamo import trace_rules
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ...errors import CaptureError, brief

__all__ = ["Copies"]

# What Dynamo's wrapper of a function has as long as it is no copy.
_OWN_ID = "_torchdynamo_wrapper_id"
_RUN_BY_A_STEP = torch.nn.Module | Optimizer | LRScheduler | GradScaler


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
        """The function or method on copies of what it reaches; any other callable as it is.

        Raises:
            CaptureError: a model or optimizer that it reaches cannot be copied.
        """
        original: Any = function
        if not getattr(function, "_torchdynamo_disable", False):
            original = getattr(function, "_torchdynamo_orig_callable", function)
        if isinstance(original, MethodType):
            return MethodType(self._function(original.__func__), self._object(original.__self__))
        return self._function(original) if isinstance(original, FunctionType) else original

    def _function(self, function: Any) -> Any:
        if not isinstance(function, FunctionType) or _known_by_identity(function):
            return function
        if id(function) in self._made:
            return self._made[id(function)]
        home = function.__globals__
        # What torch wraps around a user's function reaches torch's own by its globals.
        is_torchs = home.get("__name__", "").partition(".")[0] == "torch"
        reached = home if is_torchs else self._globals.setdefault(id(home), dict(home))
        cells = tuple(CellType() for _ in function.__closure__ or ())
        made = FunctionType(
            function.__code__, reached, function.__name__, function.__defaults__, cells
        )
        made.__kwdefaults__ = function.__kwdefaults__
        made.__qualname__ = function.__qualname__
        self._made[id(function)] = made
        for cell, original in zip(cells, function.__closure__ or (), strict=True):
            if original != CellType():
                cell.cell_contents = self._value(original.cell_contents)
        # Among them is what Dynamo goes by: that it is disabled, or a region of its own.
        vars(made).update({name: self._value(held) for name, held in vars(function).items()})
        if hasattr(made, _OWN_ID):
            setattr(made, _OWN_ID, id(made))
        for name in _names(function.__code__):
            if is_torchs or name not in home:
                continue  # a builtin, or an attribute
            value = home[name]
            # A function of another module is a library's: it is given what it works on.
            if not isinstance(value, FunctionType) or value.__globals__ is home:
                reached[name] = self._value(value)
        return made

    def _object(self, value: Any) -> Any:
        """An object with copies of the models that are its attributes."""
        if isinstance(value, torch.nn.Module) or not hasattr(value, "__dict__"):
            return self._value(value)
        if id(value) not in self._made:
            self._made[id(value)] = made = copy.copy(value)
            vars(made).update({name: self._value(held) for name, held in vars(value).items()})
        return self._made[id(value)]

    def _value(self, value: Any) -> Any:
        if isinstance(value, torch.nn.Module):
            value = getattr(value, "_orig_mod", value)
        if isinstance(value, FunctionType | MethodType):
            return self.of(value)
        if type(value) in (list, tuple):
            return type(value)(map(self._value, value))
        if type(value) is dict:
            return {key: self._value(held) for key, held in value.items()}
        is_leaf = isinstance(value, torch.Tensor) and value.requires_grad and value.is_leaf
        if not is_leaf and not isinstance(value, _RUN_BY_A_STEP):
            return value
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
            raise CaptureError(
                f"the function uses a {type(value).__name__} that could not be copied: "
                f"{brief(error)}. Tracing would run it on the original; let a function of a file "
                "build it for `torch-materialize explain FILE.py:FUNCTION`."
            ) from error


def _known_by_identity(function: Any) -> bool:
    """Whether Dynamo has a function in a list, where a copy of it would not be."""
    lists = (
        trace_rules.is_callable_allowed,
        trace_rules.is_callable_disallowed,
        trace_rules.is_leaf_function,
        trace_rules.is_nonstrict_trace_callable,
    )
    return any(lists_it(function) for lists_it in lists)


def _names(code: CodeType) -> Iterator[str]:
    """The global names of a function, and of those inside it."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


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
