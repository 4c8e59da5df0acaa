"""Built-in models from transformers: their modelling code, their published sizes, no weights.

Sizes are those of each model's published configuration, cited by the model's name on the
hub; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..errors import TargetError
from .published import LLAMA_3_1_8B, QWEN3_30B_A3B

__all__ = ["build"]

_GPT2 = {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257}
_BERT_BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
}
_T5_BASE = {
    "d_model": 768,
    "d_kv": 64,
    "d_ff": 3072,
    "num_layers": 12,
    "num_decoder_layers": 12,
    "num_heads": 12,
    "vocab_size": 32128,
}

#: name -> (transformers' model type, sizes, keys that hold the number of layers)
_MODELS: Mapping[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "llama-3.1-8b": ("llama", LLAMA_3_1_8B, ("num_hidden_layers",)),
    "qwen3-30b-a3b": ("qwen3_moe", QWEN3_30B_A3B, ("num_hidden_layers",)),
    "gpt2": ("gpt2", _GPT2, ("n_layer",)),
    "bert-base": ("bert", _BERT_BASE, ("num_hidden_layers",)),
    "t5-base": ("t5", _T5_BASE, ("num_layers", "num_decoder_layers")),
}


def build(
    name: str, batch: int, tokens: int, layers: int | None
) -> tuple[torch.nn.Module, dict[str, Any], int]:
    """The model on fake CPU tensors, its keyword inputs, and its hidden size.

    Call inside a fake mode: the weights then take no memory.

    Raises:
        TargetError: transformers is not installed, or too old for this model.
    """
    try:
        import transformers
    except ImportError as error:
        raise TargetError(
            f"model {name!r} comes from transformers, which does not import ({error}). "
            'Install it: pip install "torch-materialize[models]".'
        ) from error
    model_type, sizes, layer_keys = _MODELS[name]
    chosen = dict(sizes)
    if layers is not None:
        chosen |= dict.fromkeys(layer_keys, layers)
    try:
        config = transformers.AutoConfig.for_model(model_type, **chosen)
    except ValueError as error:
        raise TargetError(
            f"model {name!r} needs a transformers that knows {model_type!r}; found "
            f"{transformers.__version__} ({error}). Install transformers 5 or later."
        ) from error
    config.use_cache = False
    model = transformers.AutoModel.from_config(config, dtype=torch.bfloat16).eval()
    _cast_buffers(model, torch.bfloat16)
    ids = torch.zeros(batch, tokens, dtype=torch.long)
    inputs: dict[str, Any] = {"input_ids": ids}
    if model_type == "t5":
        inputs["decoder_input_ids"] = ids
    return model, inputs, config.hidden_size


def _cast_buffers(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Casts floating buffers as ``model.to(dtype)`` does: rotary frequencies become narrow too.

    ``from_pretrained(dtype=...)`` keeps those in fp32, which moves Llama-3.1-8B's stock
    traffic by 2% (847 units, not 863): the keys are then written at another place.
    ``model.to`` itself cannot swap parameters under a fake mode.
    """
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(module, name, buffer.to(dtype))
