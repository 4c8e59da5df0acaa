"""Builds what is to run: a user's model as its function makes it, or a built-in one, small."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ..errors import TargetError
from .decoder import Decoder
from .huggingface import build_small
from .language import Language
from .names import LANGUAGE, Size, check_runnable, most_tokens
from .targets import Built, load_user

__all__ = ["build"]

_SEED = 0
_HIDDEN = 256
_CALLED = "and must return (model, inputs) with weights and values: it is run"


def build(target: str, size: Size, device: torch.device, *, training: bool) -> Built:
    """A target's model and inputs, on ``device``, with the same random weights each time.

    Raises:
        TargetError: there is no such target, it does not build, or it cannot run.
    """
    check_runnable(target)
    torch.manual_seed(_SEED)
    built = load_user(target, _CALLED) if ":" in target else _small(target, size)
    tensors = pytree.tree_leaves((built.args, built.kwargs))
    if isinstance(built.model, torch.nn.Module):
        tensors += [*built.model.parameters(), *built.model.buffers()]
    if any(isinstance(x, torch.Tensor) and x.device.type == "meta" for x in tensors):
        raise TargetError(
            f"{target} left weights or inputs on the meta device, where they have no values: "
            "expected tensors that can be computed with. Build them on the CPU."
        )
    return _moved(built, device, training)


def _small(target: str, size: Size) -> Built:
    tokens = most_tokens(target, size.tokens)
    layers = 2 if size.layers is None else size.layers
    if target in LANGUAGE:
        model = Language(layers=layers, hidden=_HIDDEN, heads=4, vocabulary=1000).eval()
        return Built(model, (torch.randint(1000, (size.batch * tokens,)),))
    if target.startswith("fused-add-rmsnorm"):
        style = "hf" if target.endswith("-hf") else "vllm"
        decoder = Decoder(layers, _HIDDEN, 2 * _HIDDEN, style, random_norms=True).eval()
        x = torch.randn(size.batch * tokens, _HIDDEN, dtype=torch.bfloat16)
        return Built(decoder, (x,))
    model, inputs = build_small(target, size.batch, tokens, layers)
    return Built(model, kwargs=inputs)


def _moved(built: Built, device: torch.device, training: bool) -> Built:
    def there(one: Any) -> Any:
        return one.to(device) if isinstance(one, torch.Tensor) else one

    if isinstance(built.model, torch.nn.Module):
        built.model.to(device)
        built.model.train(training)
    args, kwargs = pytree.tree_map(there, (built.args, built.kwargs))
    return replace(built, args=args, kwargs=kwargs)
