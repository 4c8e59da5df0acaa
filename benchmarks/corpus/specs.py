"""Building blocks of the corpus: input specifications, model rows and how a row becomes a module.

A row says *what* is built; only its `build()` imports the package it comes from. Modules are
built on the meta device, so a row costs no memory: `capture` gives them fake storage.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from .stubs import stubbed_torchvision

Kind = Literal["inference", "forward", "backward"]
Mode = Literal["inference", "training"]
Built = tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Input:
    """One tensor argument. `floating` inputs take the dtype of the row they belong to."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None = None

    def make(self, floating: torch.dtype) -> torch.Tensor:
        return torch.zeros(self.shape, dtype=self.dtype or floating)


def floats(*shape: int) -> Input:
    """A floating-point input of the row's dtype."""
    return Input(shape)


def ints(*shape: int) -> Input:
    """Token ids, labels, masks: int64."""
    return Input(shape, torch.long)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One public model: where its class lives, its configuration and its inputs."""

    name: str
    family: str
    target: str
    """`package:attribute` of the class or factory."""
    config: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Input] | tuple[Input, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    """Non-tensor keyword arguments of the call."""
    dtype: torch.dtype = torch.bfloat16
    modes: tuple[Mode, ...] = ("inference",)
    on_meta: bool = True
    """False for constructors that read tensor values; those are built for real, then emptied."""

    def build(self, mode: Mode) -> Built:
        """The module in `mode`, on meta, and its arguments; fake ones under a fake mode."""
        module = self._module()
        module = module.to(device="meta", dtype=self.dtype)
        module.train(mode == "training")
        args, kwargs = self.arguments()
        return module, args, kwargs

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Zero tensors for the inputs; fake ones where a fake mode is active."""
        if isinstance(self.inputs, tuple):
            return tuple(i.make(self.dtype) for i in self.inputs), dict(self.options)
        tensors = {name: i.make(self.dtype) for name, i in self.inputs.items()}
        return (), {**tensors, **self.options}

    def _module(self) -> torch.nn.Module:
        package, _, attribute = self.target.partition(":")
        construct = CONSTRUCTORS.get(package.partition(".")[0], _plain)
        with torch.device("meta" if self.on_meta else "cpu"):
            return construct(package, attribute, dict(self.config))


def _plain(package: str, attribute: str, config: dict[str, Any]) -> torch.nn.Module:
    return getattr(importlib.import_module(package), attribute)(**config)


def _transformers(package: str, attribute: str, config: dict[str, Any]) -> torch.nn.Module:
    """A transformers model class from keyword arguments of its own config class.

    DEFAULTS replace those of the configuration class where it knows the name.
    """
    model_class = getattr(importlib.import_module(package), attribute)
    config_class = model_class.config_class
    known = inspect.signature(config_class.__init__).parameters
    defaults = {name: value for name, value in DEFAULTS.items() if name in known}
    return model_class(config_class(**{**defaults, **config}))


DEFAULTS: dict[str, Any] = {
    "use_cache": False,
    "attention_probs_dropout_prob": 0.0,
    "attention_dropout": 0.0,
    "attn_pdrop": 0.0,
}
"""No cache: it adds outputs and no kernels. No dropout inside attention: the CPU's fused attention
has none, so a trace would spell out an attention matrix that no GPU writes."""


def _timm(package: str, attribute: str, config: dict[str, Any]) -> torch.nn.Module:
    with stubbed_torchvision():
        factory: Callable[..., torch.nn.Module] = importlib.import_module(package).create_model
    return factory(attribute, pretrained=False, **config)


CONSTRUCTORS: dict[str, Callable[[str, str, dict[str, Any]], torch.nn.Module]] = {
    "transformers": _transformers,
    "timm": _timm,
}
"""Construction by top-level package; others' classes are called with the keyword arguments."""
