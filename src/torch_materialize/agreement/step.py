"""One step of a model: a forward, or a forward and a backward, always from the same state."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from ..errors import TargetError
from ..models.targets import Built
from .values import copied, named_tensors

__all__ = ["Step"]

_SEED = 0
Model = Callable[..., Any]


class Step:
    """What is run in every way: the model on its inputs, and with ``training`` its backward.

    The loss is what the model returns as ``loss``, or its first floating tensor: itself where it
    is a scalar, else the mean of its squares in fp32.
    """

    def __init__(self, built: Built, *, training: bool) -> None:
        self._built = built
        self.training = training
        self._state: dict[str, torch.Tensor] = {}
        self._leaves: dict[str, torch.Tensor] = {}
        if isinstance(built.model, torch.nn.Module):
            # Statistics that a forward updates; weights stay, for there is no optimizer.
            self._state = {name: one.detach().clone() for name, one in built.model.named_buffers()}
            self._leaves = {n: p for n, p in built.model.named_parameters() if p.requires_grad}
        inputs: list[Any] = [*built.args, *built.kwargs.values()]
        names = [*map(str, range(len(built.args))), *built.kwargs]
        for name, one in zip(names, inputs, strict=True):
            if isinstance(one, torch.Tensor) and one.requires_grad:
                self._leaves[f"input {name}"] = one
        if training and not self._leaves:
            raise TargetError(
                "--training: expected weights or inputs that require gradients; found none. "
                "Return a module with parameters, or inputs with requires_grad=True."
            )

    def run(self, model: Model) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """The outputs and the gradients of one step from the first state, by name."""
        self._reset()
        torch.manual_seed(_SEED)
        result = self._call(model, self._inputs())
        outputs = copied(named_tensors(result))
        if not self.training:
            return outputs, {}
        _loss(result).backward()
        gradients = {n: p.grad for n, p in self._leaves.items() if p.grad is not None}
        found = copied(gradients)
        self._reset()
        return outputs, found

    def clock(self, model: Model) -> Callable[[], float]:
        """What runs some steps and returns the seconds of one; the state goes on."""
        args, kwargs = self._built.args, self._built.kwargs
        device = next((x.device for x in args if isinstance(x, torch.Tensor)), torch.device("cpu"))
        wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
        steps = 0

        def once() -> None:
            result = self._call(model, (args, kwargs))
            if self.training:
                _loss(result).backward()
                for leaf in self._leaves.values():
                    leaf.grad = None

        def sample(count: int) -> float:
            wait()
            start = time.perf_counter()
            for _ in range(count):
                once()
            wait()
            return (time.perf_counter() - start) / count

        def timed() -> float:
            nonlocal steps
            if not steps:
                once()
                # As many as take long enough to be seen over the clock.
                steps = max(1, min(200, round(5e-3 / max(sample(3), 1e-9))))
            return sample(steps)

        return timed

    def _inputs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The inputs; copies of those that a model could write into."""
        args = tuple(map(_safe, self._built.args))
        return args, {name: _safe(one) for name, one in self._built.kwargs.items()}

    def _call(self, model: Model, inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
        with torch.set_grad_enabled(self.training):
            return model(*inputs[0], **inputs[1])

    def _reset(self) -> None:
        for leaf in self._leaves.values():
            leaf.grad = None
        if isinstance(self._built.model, torch.nn.Module):
            with torch.no_grad():
                for name, one in self._built.model.named_buffers():
                    one.copy_(self._state[name])


def _safe(one: Any) -> Any:
    if isinstance(one, torch.Tensor) and not one.requires_grad:
        return one.clone()
    return one


def _loss(result: Any) -> torch.Tensor:
    named = getattr(result, "loss", None)
    if isinstance(named, torch.Tensor):
        return named
    leaves = torch.utils._pytree.tree_leaves(result)
    floating = [x for x in leaves if isinstance(x, torch.Tensor) and x.is_floating_point()]
    if not floating or not floating[0].requires_grad:
        raise TargetError(
            "--training: expected a floating tensor that depends on what requires gradients; the "
            "model returned none. Return the loss, or the tensor that it is made of."
        )
    first = floating[0]
    if not first.dim():
        return first
    return first.to(torch.promote_types(first.dtype, torch.float32)).pow(2).mean()
