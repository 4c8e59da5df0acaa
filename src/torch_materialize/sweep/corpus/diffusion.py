"""Diffusion models of diffusers: U-Nets, diffusion transformers, autoencoders."""

from __future__ import annotations

from ..shorthand import BOTH, diffusers
from ..spec import Model, floats, ints

__all__ = ["DIFFUSION"]

UNETS: tuple[Model, ...] = (
    diffusers(
        "sd-unet",
        "unet",
        "UNet2DConditionModel",
        {
            "sample": floats(2, 4, 64, 64),
            "timestep": ints(2),
            "encoder_hidden_states": floats(2, 77, 768),
        },
        BOTH,
        block_out_channels=(320, 640),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=768,
    ),
    diffusers(
        "sd-unet-full",
        "unet",
        "UNet2DConditionModel",
        {
            "sample": floats(2, 4, 64, 64),
            "timestep": ints(2),
            "encoder_hidden_states": floats(2, 77, 768),
        },
        cross_attention_dim=768,
    ),
    diffusers(
        "ddpm-unet",
        "unet",
        "UNet2DModel",
        {"sample": floats(4, 3, 64, 64), "timestep": ints(4)},
        BOTH,
        block_out_channels=(128, 256),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
    ),
    diffusers(
        "controlnet",
        "unet",
        "ControlNetModel",
        {
            "sample": floats(2, 4, 64, 64),
            "timestep": ints(2),
            "encoder_hidden_states": floats(2, 77, 768),
            "controlnet_cond": floats(2, 3, 512, 512),
        },
        block_out_channels=(320, 640),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        layers_per_block=1,
        cross_attention_dim=768,
    ),
    diffusers(
        "vae-decoder",
        "unet",
        "AutoencoderKL",
        {"sample": floats(1, 3, 256, 256)},
        BOTH,
        block_out_channels=(128, 256),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
    ),
)

_TEXT_AND_POOLED = {
    "encoder_hidden_states": floats(1, 256, 4096),
    "pooled_projections": floats(1, 2048),
}

TRANSFORMERS: tuple[Model, ...] = (
    diffusers(
        "dit",
        "diffusion-transformer",
        "DiTTransformer2DModel",
        {"hidden_states": floats(4, 4, 32, 32), "timestep": ints(4), "class_labels": ints(4)},
        BOTH,
        num_layers=3,
        num_attention_heads=16,
        attention_head_dim=72,
        in_channels=4,
        out_channels=8,
    ),
    diffusers(
        "sd3",
        "diffusion-transformer",
        "SD3Transformer2DModel",
        {"hidden_states": floats(1, 16, 128, 128), "timestep": ints(1), **_TEXT_AND_POOLED},
        BOTH,
        num_layers=3,
        num_attention_heads=24,
        caption_projection_dim=1536,
    ),
    diffusers(
        "flux",
        "diffusion-transformer",
        "FluxTransformer2DModel",
        {
            "hidden_states": floats(1, 1024, 64),
            "encoder_hidden_states": floats(1, 256, 4096),
            "pooled_projections": floats(1, 768),
            "timestep": floats(1),
            "guidance": floats(1),
            "img_ids": floats(1024, 3),
            "txt_ids": floats(256, 3),
        },
        BOTH,
        num_layers=2,
        num_single_layers=2,
        guidance_embeds=True,
    ),
    diffusers(
        "pixart",
        "diffusion-transformer",
        "PixArtTransformer2DModel",
        {
            "hidden_states": floats(2, 4, 64, 64),
            "encoder_hidden_states": floats(2, 120, 4096),
            "timestep": ints(2),
        },
        num_layers=3,
        sample_size=64,
        caption_channels=4096,
    ),
    diffusers(
        "wan",
        "diffusion-transformer",
        "WanTransformer3DModel",
        {
            "hidden_states": floats(1, 16, 5, 32, 32),
            "encoder_hidden_states": floats(1, 256, 4096),
            "timestep": ints(1),
        },
        num_layers=2,
        num_attention_heads=12,
        attention_head_dim=128,
        ffn_dim=8960,
    ),
    diffusers(
        "sana",
        "diffusion-transformer",
        "SanaTransformer2DModel",
        {
            "hidden_states": floats(1, 32, 32, 32),
            "encoder_hidden_states": floats(1, 300, 2304),
            "timestep": ints(1),
        },
        num_layers=3,
    ),
)

DIFFUSION: tuple[Model, ...] = (*UNETS, *TRANSFORMERS)
