"""Decoder language models."""

from __future__ import annotations

from ..shorthand import BOTH, INFERENCE, TRAINING, labels, llama_like, text
from ..spec import Model

__all__ = ["DECODERS"]

DECODERS: tuple[Model, ...] = (
    text("llama-8b", "decoder", "LlamaModel", 1, 4096, BOTH, **llama_like(4, 4096, 14336, 32, 8)),
    text(
        "llama-8b-24l",
        "decoder",
        "LlamaModel",
        1,
        2048,
        INFERENCE,
        **llama_like(24, 4096, 14336, 32, 8),
    ),
    text(
        "llama-1b-loss",
        "decoder",
        "LlamaForCausalLM",
        2,
        1024,
        TRAINING,
        extra=labels(2, 1024),
        vocab_size=32000,
        **llama_like(3, 2048, 8192, 32, 8),
    ),
    text("qwen2-7b", "decoder", "Qwen2Model", 1, 4096, BOTH, **llama_like(3, 3584, 18944, 28, 4)),
    text("qwen3-4b", "decoder", "Qwen3Model", 1, 4096, BOTH, **llama_like(3, 2560, 9728, 32, 8)),
    text(
        "mistral-7b", "decoder", "MistralModel", 1, 4096, BOTH, **llama_like(3, 4096, 14336, 32, 8)
    ),
    text(
        "gemma-2b", "decoder", "GemmaModel", 1, 2048, INFERENCE, **llama_like(3, 2048, 16384, 8, 1)
    ),
    text("gemma2-2b", "decoder", "Gemma2Model", 1, 2048, BOTH, **llama_like(3, 2304, 9216, 8, 4)),
    text(
        "gemma3-1b", "decoder", "Gemma3TextModel", 1, 2048, BOTH, **llama_like(3, 1152, 6912, 4, 1)
    ),
    text("phi-2", "decoder", "PhiModel", 1, 2048, INFERENCE, **llama_like(3, 2560, 10240, 32, 32)),
    text(
        "phi3-mini",
        "decoder",
        "Phi3Model",
        1,
        2048,
        BOTH,
        pad_token_id=0,
        **llama_like(3, 3072, 8192, 32, 32),
    ),
    text("gpt2", "decoder", "GPT2Model", 4, 1024, BOTH, n_layer=4),
    text(
        "gpt2-loss",
        "decoder",
        "GPT2LMHeadModel",
        2,
        1024,
        TRAINING,
        extra=labels(2, 1024),
        n_layer=2,
    ),
    text(
        "gpt-neox",
        "decoder",
        "GPTNeoXModel",
        1,
        2048,
        BOTH,
        num_hidden_layers=3,
        hidden_size=2560,
        intermediate_size=10240,
        num_attention_heads=32,
    ),
    text(
        "gptj",
        "decoder",
        "GPTJModel",
        1,
        2048,
        INFERENCE,
        n_layer=2,
        n_embd=4096,
        n_head=16,
    ),
    text(
        "opt-1.3b",
        "decoder",
        "OPTModel",
        1,
        2048,
        BOTH,
        num_hidden_layers=3,
        hidden_size=2048,
        ffn_dim=8192,
        num_attention_heads=32,
        word_embed_proj_dim=2048,
    ),
    text(
        "falcon-7b",
        "decoder",
        "FalconModel",
        1,
        2048,
        INFERENCE,
        num_hidden_layers=3,
        hidden_size=4544,
        num_attention_heads=71,
    ),
    text(
        "bloom", "decoder", "BloomModel", 1, 1024, INFERENCE, n_layer=3, hidden_size=1024, n_head=16
    ),
    text("olmo2", "decoder", "Olmo2Model", 1, 2048, INFERENCE, **llama_like(3, 2048, 8192, 16, 16)),
    text(
        "cohere", "decoder", "CohereModel", 1, 2048, INFERENCE, **llama_like(2, 4096, 14336, 32, 8)
    ),
    text(
        "stablelm",
        "decoder",
        "StableLmModel",
        1,
        2048,
        INFERENCE,
        **llama_like(3, 2048, 5632, 32, 32),
    ),
    text(
        "starcoder2",
        "decoder",
        "Starcoder2Model",
        1,
        2048,
        INFERENCE,
        **llama_like(3, 3072, 12288, 24, 2),
    ),
    text(
        "granite",
        "decoder",
        "GraniteModel",
        1,
        2048,
        INFERENCE,
        **llama_like(3, 2048, 8192, 32, 8),
    ),
)
