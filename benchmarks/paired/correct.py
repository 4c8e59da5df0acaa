"""Whether every way gives the right answer on the device at hand: against fp64, beside eager."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch

from .cases import Case, Made
from .ways import AGAIN, EAGER, STOCK, steps

# A way may err as far as this many times the worse of eager and stock: both round differently,
# and neither is the truth.
_ALLOWED = 2.0


def check(case: Case, ways: tuple[str, ...], device: str) -> dict[str, Any]:
    """One row: way -> root mean square error against fp64, as a share of the answer's, and the
    share of numbers that equal eager's to the last bit.

    A training step is judged by its gradients, all of them together.

    Raises:
        Exception: whatever the model, Inductor or the device raises.
    """
    torch.manual_seed(0)
    with torch.device(device):
        made = case.make(None)
    truth = _answer(_wide(made), EAGER)
    eager, stock = _answer(made, EAGER), _answer(made, STOCK)
    errors = {EAGER: _error(eager, truth), STOCK: _error(stock, truth)}
    equal = {STOCK: _equal(stock, eager)}
    limit = _ALLOWED * max(errors.values())
    wrong = {}
    for way in ways:
        if way in errors or way == AGAIN:
            continue
        try:
            answer = _answer(made, way)
            errors[way], equal[way] = _error(answer, truth), _equal(answer, eager)
        except Exception as error:  # noqa: BLE001 - the others are worth having
            wrong[way] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            continue
        if not errors[way] <= limit:
            wrong[way] = f"error {errors[way]:.3g} against fp64 is above {limit:.3g}"
    row = {"name": case.name, "tokens": case.tokens, "training": made.training}
    return {**row, "errors": errors, "equal_to_eager": equal, "limit": limit, "wrong": wrong}


def _answer(made: Made, way: str) -> list[torch.Tensor]:
    if made.training:
        model = made.run
        ((_, compiled),) = steps(made, (way,), "whole", keep_gradients=True)
        step = compiled()
        model.zero_grad()  # type: ignore[attr-defined]
        step()
        gradients = [p.grad for p in model.parameters()]  # type: ignore[attr-defined]
        found = [g.detach().clone() for g in gradients if g is not None]
        model.zero_grad()  # type: ignore[attr-defined]
        return found
    ((_, compiled),) = steps(made, (way,), "whole")
    return [x.detach().clone() for x in _tensors(compiled()())]


def _tensors(result: Any) -> Iterator[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        if result.is_floating_point():
            yield result
    elif isinstance(result, dict):
        for part in result.values():
            yield from _tensors(part)
    elif isinstance(result, list | tuple):
        for part in result:
            yield from _tensors(part)


def _wide(made: Made) -> Made:
    """The same model and inputs in fp64."""
    model: Any = copy.deepcopy(made.run).double()

    def widen(x: Any) -> Any:
        floats = isinstance(x, torch.Tensor) and x.is_floating_point()
        return x.double() if floats else x

    kwargs = {name: widen(x) for name, x in made.kwargs.items()}
    return Made(model, tuple(map(widen, made.args)), kwargs, training=made.training)


def _error(got: list[torch.Tensor], want: list[torch.Tensor]) -> float:
    squares = sum(float((g.double() - w).square().sum()) for g, w in zip(got, want, strict=True))
    size = sum(float(w.square().sum()) for w in want)
    return (squares / size) ** 0.5 if size else squares**0.5


def _equal(got: list[torch.Tensor], want: list[torch.Tensor]) -> float:
    same = sum(int((g == w).sum()) for g, w in zip(got, want, strict=True))
    return round(same / sum(w.numel() for w in want), 5)
