"""Runs a user's builder as it is written, on fake CPU tensors.

Builders say ``.half()``, ``.to("cuda")`` and ``copy.deepcopy(layer)``.  Under a fake mode alone
the first raises, the second needs a GPU and the third copies memory that is not there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import torch
import torch.utils
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

__all__ = ["building"]

_CPU = torch.device("cpu")


@contextlib.contextmanager
def building() -> Iterator[None]:
    """Lets a builder convert, move and copy what it builds; enter a fake mode first.

    Every device is the CPU meanwhile: a target is traced there, and planned for another device
    afterwards.  What is replaced is process-wide, and acts on fake tensors only.
    """
    with (
        mock.patch.object(torch.utils, "swap_tensors", _swapping(torch.utils.swap_tensors)),
        mock.patch.object(torch, "set_default_device", lambda _device: None),
        _OnTheCpu(),
    ):
        yield


def _swapping(upstream: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """What ``Module.to`` puts a converted weight in place of the old one with.

    Upstream refuses tensors that something else refers to, as a fake mode does to its own.
    ``Module.to`` only looks at the first of the two afterwards.
    """

    def swap(weight: Any, converted: Any) -> None:
        if not isinstance(weight, FakeTensor) or not isinstance(converted, FakeTensor):
            upstream(weight, converted)
            return
        # In place, so that a tied weight is converted wherever it is held.
        weight.data = converted.data
        weight.fake_device = converted.fake_device

    return swap


class _OnTheCpu(TorchFunctionMode):
    """Takes the CPU for every device that is named, the meta device, too: all is fake."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func is torch.Tensor.__deepcopy__ and isinstance(args[0], FakeTensor):
            return _copied(*args)
        if func in (torch.Tensor.cuda, torch.Tensor.pin_memory):
            return args[0]
        if func is torch.Tensor.to and len(args) > 1 and isinstance(args[1], (str, int)):
            args = (args[0], _CPU, *args[2:])
        args = tuple(_CPU if isinstance(x, torch.device) else x for x in args)
        if named.get("device") is not None:
            named["device"] = _CPU
        if named.get("pin_memory"):
            named["pin_memory"] = False
        return func(*args, **named)


def _copied(tensor: FakeTensor, memo: dict[int, Any]) -> Any:
    """``copy.deepcopy`` of a fake tensor: upstream copies its storage, which has no memory."""
    if id(tensor) not in memo:
        with torch.no_grad():
            copied: Any = tensor.detach().clone()
        if isinstance(tensor, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, tensor.requires_grad)
        memo[id(tensor)] = copied.requires_grad_(tensor.requires_grad)
    return memo[id(tensor)]
