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

__all__ = ["build", "build_small"]

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

# What differs where a model is to run: hidden size 256, few heads and words.
_SMALL_LLAMA = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 1000,
}
_SMALL_EXPERTS = {"moe_intermediate_size": 128, "num_experts": 8, "num_experts_per_tok": 2}
_SMALL_BERT = {
    "hidden_size": 256,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "vocab_size": 1000,
}
_SMALL: Mapping[str, dict[str, Any]] = {
    "llama-3.1-8b": _SMALL_LLAMA,
    "qwen3-30b-a3b": {**_SMALL_LLAMA, **_SMALL_EXPERTS},
    "gpt2": {"n_embd": 256, "n_head": 4, "vocab_size": 1000},
    "bert-base": _SMALL_BERT,
    "t5-base": {"d_model": 256, "d_kv": 64, "d_ff": 512, "num_heads": 4, "vocab_size": 1000},
}


def build(
    name: str, batch: int, tokens: int, layers: int | None
) -> tuple[torch.nn.Module, dict[str, Any], int]:
    """The model on fake CPU tensors, its keyword inputs, and its hidden size.

    Call inside a fake mode: the weights then take no memory.

    Raises:
        TargetError: transformers is not installed, or too old for this model.
    """
    transformers = _transformers(name)
    config = _config(transformers, name, {}, layers)
    model = transformers.AutoModel.from_config(config, dtype=torch.bfloat16).eval()
    _cast_buffers(model, torch.bfloat16)
    return model, _inputs(config, torch.zeros(batch, tokens, dtype=torch.long)), config.hidden_size


def build_small(
    name: str, batch: int, tokens: int, layers: int | None
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The same code at a size that any machine runs, with random weights and a head for logits.

    Raises:
        TargetError: as for :func:`build`.
    """
    transformers = _transformers(name)
    config = _config(transformers, name, _SMALL[name], 2 if layers is None else layers)
    head = {"bert": "MaskedLM", "t5": "Seq2SeqLM"}.get(config.model_type, "CausalLM")
    made = getattr(transformers, f"AutoModelFor{head}").from_config(config, dtype=torch.bfloat16)
    ids = torch.randint(config.vocab_size, (batch, tokens))
    return made.eval(), _inputs(config, ids)


def _transformers(name: str) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise TargetError(
            f"model {name!r} comes from transformers, which does not import ({error}). "
            'Install it: pip install "torch-materialize[models]".'
        ) from error
    return transformers


def _config(transformers: Any, name: str, sizes: dict[str, Any], layers: int | None) -> Any:
    model_type, published, layer_keys = _MODELS[name]
    chosen = {**published, **sizes}
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
    return config


def _inputs(config: Any, ids: torch.Tensor) -> dict[str, Any]:
    named = {"input_ids": ids}
    return named if config.model_type != "t5" else {**named, "decoder_input_ids": ids}


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
