"""What one model of the corpus is: where its class lives, its configuration, its inputs.

Pure data, so that the corpus can be listed without importing torch; :mod:`.construct` makes
modules and tensors of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

__all__ = ["KINDS", "Input", "Kind", "Mode", "Model", "floats", "ints"]

#: What a graph computes: a forward without a backward, or one of the two of a training step.
Kind = Literal["inference", "forward", "backward"]
Mode = Literal["inference", "training"]

#: The kinds of graph that one capture in a mode gives.
KINDS: Mapping[Mode, tuple[Kind, ...]] = MappingProxyType(
    {"inference": ("inference",), "training": ("forward", "backward")}
)


@dataclass(frozen=True)
class Input:
    """One tensor argument; ``dtype`` is torch's name for it, "" takes the model's own."""

    shape: tuple[int, ...]
    dtype: str = ""


def floats(*shape: int) -> Input:
    """A floating-point input of the model's dtype."""
    return Input(shape)


def ints(*shape: int) -> Input:
    """Token ids, labels, masks, time steps: int64."""
    return Input(shape, "int64")


@dataclass(frozen=True, kw_only=True)
class Model:
    """One public model.

    Attributes:
        target: ``package:attribute`` of the class or factory.
        config: keyword arguments of the class, or of its configuration class.
        inputs: tensor arguments, by name or by position.
        options: keyword arguments of the call that are no tensors.
        modes: in which of inference and training it is measured.
        on_meta: False for constructors that read tensor values: built for real, then emptied.
    """

    name: str
    family: str
    target: str
    config: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Input] | tuple[Input, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "bfloat16"
    modes: tuple[Mode, ...] = ("inference",)
    on_meta: bool = True

    @property
    def package(self) -> str:
        """The top-level package that the model comes from."""
        return self.target.partition(":")[0].partition(".")[0]
