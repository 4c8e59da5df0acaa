"""A model and its inputs without their memory: what a user's own model is traced with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from .closed_over import Copies

__all__ = ["fake_copy", "settle"]


def fake_copy(
    model: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    mode: FakeTensorMode,
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Fake CPU copies of a module, compiled or not, and of its inputs; theirs stay as they are.

    Of what a function reaches by itself, models and optimizers are copied (:class:`.Copies`);
    other tensors become constants.

    Raises:
        CaptureError: what a function reaches cannot be copied.
    """
    original = getattr(model, "_orig_mod", model)

    def faked(value: torch.Tensor) -> torch.Tensor:
        with mode:
            return torch.empty_strided(
                value.size(), value.stride(), dtype=value.dtype, device="cpu"
            ).requires_grad_(value.requires_grad)

    copies = Copies(mode, faked)

    def given(value: Any) -> Any:
        return faked(value) if isinstance(value, torch.Tensor) else copies.value(value)

    inputs, named = pytree.tree_map(given, (tuple(args), dict(kwargs)))
    if isinstance(original, torch.nn.Module):
        with mode:
            # Under the mode, the clones that a deep copy makes have no memory.
            original = copy.deepcopy(original)
        _to_cpu(original, faked)
    else:
        original = copies.of(original)
    return original, inputs, named


def settle(
    model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs on the CPU, and a module's weights, in place; inside a fake mode.

    What a builder left on the meta device has no kernel that could be planned.
    """

    def faked(value: torch.Tensor) -> torch.Tensor:
        if value.device.type == "cpu":
            return value
        there = torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device="cpu")
        return there.requires_grad_(value.requires_grad)

    original = getattr(model, "_orig_mod", model)
    if isinstance(original, torch.nn.Module):
        _to_cpu(original, faked)
    inputs, named = pytree.tree_map_only(torch.Tensor, faked, (tuple(args), dict(kwargs)))
    return inputs, named


def _to_cpu(module: torch.nn.Module, faked: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Moves fake weights; ``Module.to`` would swap tensors, which fake ones do not allow."""
    made: dict[int, torch.Tensor] = {}
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            for name, value in held.items():
                if value is None or value.device.type == "cpu":
                    continue
                if id(value) not in made:
                    moved = faked(value.detach())
                    is_parameter = isinstance(value, torch.nn.Parameter)
                    made[id(value)] = (
                        torch.nn.Parameter(moved, value.requires_grad) if is_parameter else moved
                    )
                held[name] = made[id(value)]
