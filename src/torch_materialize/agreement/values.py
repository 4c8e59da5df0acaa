"""Holds tensors against eager's, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ..results.agreement import Compared, Differing

__all__ = ["Element", "bits", "compared", "copied", "named_tensors", "worst"]

_WHOLE_NUMBERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def named_tensors(result: Any) -> dict[str, torch.Tensor]:
    """The tensors in what a model returns, by where they stand in it."""
    pairs, _ = pytree.tree_flatten_with_path(result)
    return {
        ".".join(map(_key, path)) or "output": leaf.detach()
        for path, leaf in pairs
        if isinstance(leaf, torch.Tensor)
    }


def _key(entry: Any) -> str:
    """One step on the way to a leaf: a key, an attribute's name or a place."""
    for name in ("key", "name", "idx"):
        if hasattr(entry, name):
            return str(getattr(entry, name))
    return str(entry)


def copied(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same, safe from what is run afterwards."""
    return {name: one.detach().clone() for name, one in tensors.items()}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The bits of every element as whole numbers: -0 is not 0, and NaN is NaN."""
    plain = tensor.detach()
    if plain.is_complex():
        plain = torch.view_as_real(plain.resolve_conj())
    if not plain.is_floating_point():
        return plain.contiguous()
    return plain.contiguous().view(_WHOLE_NUMBERS[plain.element_size()])


def compared(ours: Mapping[str, torch.Tensor], eager: Mapping[str, torch.Tensor]) -> Compared:
    """Every tensor of ``eager`` beside the one of the same name.

    One that is missing, or of another shape or dtype, has no equal element.
    """
    elements = equal = 0
    largest = scale = 0.0
    rows = rows_equal = 0
    differing = {}
    for name, want in eager.items():
        got = ours.get(name)
        elements += want.numel()
        if got is None or got.shape != want.shape or got.dtype != want.dtype:
            differing[name] = Differing(want.numel(), 0, math.inf)
            largest = math.inf
            continue
        same = bits(got) == bits(want)
        if want.is_complex():
            same = same.all(-1)
        count = int(same.sum())
        equal += count
        if want.numel():
            scale = max(scale, _finite(_wide(want).abs().max()))
        if count < want.numel():
            apart = _finite(_distance(got, want, same).max())
            differing[name] = Differing(want.numel(), count, apart)
            largest = max(largest, apart)
        if not rows and want.is_floating_point() and want.dim() > 1 and want.shape[-1] > 1:
            ahead = _wide(got).argmax(-1) == _wide(want).argmax(-1)
            rows, rows_equal = ahead.numel(), int(ahead.sum())
    return Compared(elements, equal, largest, scale, rows, rows_equal, differing)


class Element:
    """The element of two tensors that lies farthest apart.

    Attributes:
        eager, compiled: number and bits.
        steps: representable numbers between them; -1 for what is no floating number.
        largest: their absolute difference.
        differ: how many elements differ.
    """

    def __init__(self, got: torch.Tensor, want: torch.Tensor) -> None:
        same = bits(got) == bits(want)
        if want.is_complex():
            same = same.all(-1)
        distance = _distance(got, want, same).flatten()
        place = int(distance.argmax())
        one, other = (x.detach().flatten()[place : place + 1] for x in (want, got))
        self.differ = int((~same).sum())
        self.largest = _finite(distance[place])
        self.eager, self.compiled = _written(one), _written(other)
        self.steps = _steps(one, other)


def worst(got: torch.Tensor, want: torch.Tensor) -> Element:
    """The element that differs most, of two tensors of one shape and dtype."""
    return Element(got, want)


def _distance(got: torch.Tensor, want: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    """Absolute differences; infinite where one of the two is no number, 0 where bits agree."""
    apart = (_wide(got) - _wide(want)).abs()
    return apart.masked_fill(same, 0.0).nan_to_num(nan=math.inf, posinf=math.inf)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """The numbers in fp64: of fp8 and booleans nothing else is known, and of -128 no int8."""
    return tensor.detach().to(torch.complex128 if tensor.is_complex() else torch.float64)


def _finite(value: torch.Tensor) -> float:
    number = float(value)
    return math.inf if math.isnan(number) else number


def _written(one: torch.Tensor) -> str:
    if not one.is_floating_point():
        return str(one.item())
    size = one.element_size()
    pattern = int(bits(one).item()) % (1 << 8 * size)
    return f"{one.item():.9g} (0x{pattern:0{2 * size}x})"


def _steps(one: torch.Tensor, other: torch.Tensor) -> int:
    """How many representable numbers lie between two, counted along the number line."""
    if not one.is_floating_point() or bool(one.isnan()) or bool(other.isnan()):
        return -1
    return abs(_rank(one) - _rank(other))


def _rank(one: torch.Tensor) -> int:
    pattern, width = int(bits(one).item()), 8 * one.element_size()
    return pattern if pattern >= 0 else -(pattern + (1 << (width - 1)))
