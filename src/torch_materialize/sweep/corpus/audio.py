"""Audio models: speech encoders, Whisper, neural codecs."""

from __future__ import annotations

from ..shorthand import BOTH, audio
from ..spec import Model, floats, ints

__all__ = ["AUDIO"]

AUDIO: tuple[Model, ...] = (
    audio(
        "whisper-small",
        "WhisperModel",
        {"input_features": floats(4, 80, 3000), "decoder_input_ids": ints(4, 256)},
        BOTH,
        encoder_layers=2,
        decoder_layers=2,
        d_model=768,
        encoder_attention_heads=12,
        decoder_attention_heads=12,
        encoder_ffn_dim=3072,
        decoder_ffn_dim=3072,
        mask_time_prob=0.0,
    ),
    audio(
        "wav2vec2",
        "Wav2Vec2Model",
        {"input_values": floats(4, 32000)},
        BOTH,
        num_hidden_layers=2,
        apply_spec_augment=False,
        layerdrop=0.0,
    ),
    audio("hubert", "HubertModel", {"input_values": floats(4, 32000)}, num_hidden_layers=2),
    audio("wavlm", "WavLMModel", {"input_values": floats(4, 32000)}, num_hidden_layers=2),
    audio("ast", "ASTModel", {"input_values": floats(4, 1024, 128)}, num_hidden_layers=3),
    audio("sew", "SEWModel", {"input_values": floats(4, 32000)}, num_hidden_layers=2),
    audio("encodec", "EncodecModel", {"input_values": floats(2, 1, 24000)}),
    audio("dac", "DacModel", {"input_values": floats(1, 1, 16000)}),
    audio(
        "wav2vec2-conformer",
        "Wav2Vec2ConformerModel",
        {"input_values": floats(4, 32000)},
        num_hidden_layers=2,
    ),
    audio(
        "clap-audio",
        "ClapAudioModel",
        {"input_features": floats(4, 1, 1001, 64)},
        depths=[1, 1, 1, 1],
    ),
    audio(
        "musicgen-decoder", "MusicgenForCausalLM", {"input_ids": ints(8, 256)}, num_hidden_layers=3
    ),
)
