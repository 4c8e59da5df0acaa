"""Makes modules and inputs of what the corpus says; only here its packages are imported.

Modules are built on the meta device and get fake storage, so a model costs no memory.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from .spec import Input, Mode, Model
from .stubs import stubbed_torchvision

__all__ = ["build", "zeros_mode"]

# No cache: it adds outputs and no kernels.  No dropout inside attention: the CPU's fused
# attention has none, so a trace would spell out an attention matrix that no GPU writes.
_CONFIG_DEFAULTS: dict[str, Any] = {
    "use_cache": False,
    "attention_probs_dropout_prob": 0.0,
    "attention_dropout": 0.0,
    "attn_pdrop": 0.0,
}


class _ZerosShapeEnv(ShapeEnv):
    """Reads a boolean out of a tensor as False, in the code between two graphs of a graph break.

    Every input of the corpus is zero, and an unknown boolean would stop the model right there.
    """

    def create_unbacked_symbool(self) -> Any:
        return False


def zeros_mode() -> FakeTensorMode:
    """The fake mode in which a model of the corpus is built and traced."""
    return FakeTensorMode(allow_non_fake_inputs=True, shape_env=_ZerosShapeEnv())


def build(
    model: Model, mode: Mode, fake_mode: FakeTensorMode
) -> tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]:
    """The module with fake CPU weights, its positional and its keyword arguments.

    Raises:
        Exception: whatever the model's package raises.
    """
    module = _module(model).to(device="meta", dtype=_dtype(model.dtype))
    module.train(mode == "training")
    with fake_mode:
        module.to_empty(device="cpu")
        if isinstance(model.inputs, tuple):
            return module, tuple(_zeros(i, model) for i in model.inputs), dict(model.options)
        tensors = {name: _zeros(i, model) for name, i in model.inputs.items()}
        return module, (), {**tensors, **model.options}


def _zeros(spec: Input, model: Model) -> torch.Tensor:
    return torch.zeros(spec.shape, dtype=_dtype(spec.dtype or model.dtype))


def _dtype(name: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _module(model: Model) -> torch.nn.Module:
    package, _, attribute = model.target.partition(":")
    construct = _CONSTRUCTORS.get(model.package, _plain)
    with torch.device("meta" if model.on_meta else "cpu"):
        return construct(package, attribute, dict(model.config))


def _plain(package: str, attribute: str, config: dict[str, Any]) -> torch.nn.Module:
    """A class that takes its configuration as keyword arguments."""
    module: torch.nn.Module = getattr(importlib.import_module(package), attribute)(**config)
    return module


def _transformers(package: str, attribute: str, config: dict[str, Any]) -> torch.nn.Module:
    """A transformers model class from keyword arguments of its own configuration class."""
    model_class = getattr(importlib.import_module(package), attribute)
    config_class = model_class.config_class
    known = inspect.signature(config_class.__init__).parameters
    defaults = {name: value for name, value in _CONFIG_DEFAULTS.items() if name in known}
    module: torch.nn.Module = model_class(config_class(**{**defaults, **config}))
    return module


def _timm(package: str, attribute: str, config: dict[str, Any]) -> torch.nn.Module:
    with stubbed_torchvision():
        factory: Callable[..., torch.nn.Module] = importlib.import_module(package).create_model
    return factory(attribute, pretrained=False, **config)


_CONSTRUCTORS: dict[str, Callable[[str, str, dict[str, Any]], torch.nn.Module]] = {
    "transformers": _transformers,
    "timm": _timm,
}
