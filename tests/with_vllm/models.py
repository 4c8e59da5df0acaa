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


def make(kind: str, folder: Path) -> Path:
    """Writes the model ``kind``, ``llama`` or ``moe``, once; returns its folder."""
    where = folder / kind
    if (where / "done").exists():
        return where
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    if kind == "llama":
        model = LlamaForCausalLM(LlamaConfig(**_SMALL, intermediate_size=512))
    else:
        config = Qwen3MoeConfig(
            **_SMALL,
            intermediate_size=512,
            moe_intermediate_size=128,
            num_experts=8,
            num_experts_per_tok=2,
            norm_topk_prob=True,
        )
        model = Qwen3MoeForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    model.to(torch.bfloat16).save_pretrained(where)
    _tokenizer(where)
    (where / "done").touch()
    return where


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
