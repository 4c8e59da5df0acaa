"""Tiny models with random weights, as folders that vLLM loads."""

from __future__ import annotations

import json
from pathlib import Path

import torch

VOCABULARY = 1000
_SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    # Weights large enough that logits differ by more than rounding, most of the time.
    "initializer_range": 0.08,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


#: ``int8`` is the Llama with int8 weights and activations.
KINDS = ("llama", "moe", "gemma", "int8")
#: Short convolutions in three layers of four (LFM2); vLLM runs it on a CPU from 0.32 on.
HYBRID = "hybrid"


def make(kind: str, folder: Path) -> Path:
    """Writes the model ``kind``, of :data:`KINDS` or :data:`HYBRID`, once; returns its folder."""
    where = folder / kind
    if (where / "done").exists():
        return where
    torch.manual_seed(0)
    model = _model(kind)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    model.to(torch.bfloat16).save_pretrained(where)
    if kind == "int8":
        _quantize(where)
    _tokenizer(where)
    (where / "done").touch()
    return where


def _model(kind: str) -> torch.nn.Module:
    from transformers import (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        Lfm2Config,
        Lfm2ForCausalLM,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen3MoeConfig,
        Qwen3MoeForCausalLM,
    )

    if kind == "moe":
        config = Qwen3MoeConfig(
            **_SMALL,
            intermediate_size=512,
            moe_intermediate_size=128,
            num_experts=8,
            num_experts_per_tok=2,
            norm_topk_prob=True,
        )
        return Qwen3MoeForCausalLM(config)
    if kind == "gemma":
        # Its norms multiply by 1 + w in fp32, and stand behind attention and MLP, too.
        config = Gemma3TextConfig(
            **_SMALL, intermediate_size=512, sliding_window=32, query_pre_attn_scalar=64
        )
        return Gemma3ForCausalLM(config)
    if kind == HYBRID:
        layers = ["conv", "conv", "full_attention", "conv"]
        small = {name: size for name, size in _SMALL.items() if name != "head_dim"}
        config = Lfm2Config(
            **small, layer_types=layers, block_ff_dim=512, conv_dim=256, block_dim=256
        )
        return Lfm2ForCausalLM(config)
    return LlamaForCausalLM(LlamaConfig(**_SMALL, intermediate_size=512))


def _quantize(where: Path) -> None:
    """W8A8 as ``compressed-tensors`` writes it: scales by channel of weights, by token else."""
    from safetensors.torch import load_file, save_file

    file = where / "model.safetensors"
    tensors = load_file(file)
    for name in [name for name in tensors if name.endswith("proj.weight")]:
        wide = tensors[name].float()
        scale = wide.abs().amax(-1, keepdim=True) / 127
        tensors[name] = (wide / scale).round().clamp(-128, 127).to(torch.int8)
        tensors[f"{name}_scale"] = scale
    save_file(tensors, file, {"format": "pt"})
    eight = {"num_bits": 8, "type": "int", "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": {**eight, "strategy": "channel", "dynamic": False},
        "input_activations": {**eight, "strategy": "token", "dynamic": True},
    }
    config = json.loads((where / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }
    (where / "config.json").write_text(json.dumps(config))


def _tokenizer(where: Path) -> None:
    """One word for each token, so that a server has something to read and to answer."""
    words = {f"w{number}": number for number in range(VOCABULARY)}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
    }
    (where / "tokenizer.json").write_text(json.dumps(tokenizer))
    how = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "w0", "eos_token": "w2"}
    (where / "tokenizer_config.json").write_text(json.dumps(how))
