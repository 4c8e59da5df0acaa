"""Vision models: transformers, two-tower models, convolutional networks."""

from __future__ import annotations

from typing import Any

import torch

from .specs import Input, Mode, Row, floats, ints

BOTH: tuple[Mode, ...] = ("inference", "training")
INFERENCE: tuple[Mode, ...] = ("inference",)
TRAINING: tuple[Mode, ...] = ("training",)


def _image(
    name: str,
    family: str,
    model_class: str,
    batch: int,
    modes: tuple[Mode, ...],
    *,
    size: int = 224,
    dtype: torch.dtype = torch.bfloat16,
    on_meta: bool = True,
    extra: dict[str, Input] | None = None,
    **config: Any,
) -> Row:
    """A transformers model over `pixel_values`; `extra` adds inputs."""
    return Row(
        name=name,
        family=family,
        target=f"transformers:{model_class}",
        config=config,
        inputs={"pixel_values": floats(batch, 3, size, size), **(extra or {})},
        modes=modes,
        dtype=dtype,
        on_meta=on_meta,
    )


def _timm(
    name: str,
    family: str,
    batch: int,
    modes: tuple[Mode, ...],
    *,
    size: int = 224,
    dtype: torch.dtype = torch.bfloat16,
    **config: Any,
) -> Row:
    """A timm model; constructors read tensor values (stochastic depth): built for real."""
    return Row(
        name=f"timm-{name}",
        family=family,
        target=f"timm:{name}",
        config=config,
        inputs=(floats(batch, 3, size, size),),
        modes=modes,
        dtype=dtype,
        on_meta=False,
    )


VITS: tuple[Row, ...] = (
    _image("vit-base", "vit", "ViTModel", 16, BOTH, num_hidden_layers=4),
    _image("deit", "vit", "DeiTModel", 16, INFERENCE, num_hidden_layers=3),
    _image("swin-tiny", "vit", "SwinModel", 8, BOTH, depths=[2, 2], num_heads=[3, 6]),
    _image(
        "swinv2",
        "vit",
        "Swinv2Model",
        8,
        INFERENCE,
        size=256,
        image_size=256,
        window_size=8,
        depths=[2, 2],
        num_heads=[3, 6],
    ),
    _image("dinov2", "vit", "Dinov2Model", 16, BOTH, num_hidden_layers=3, image_size=224),
    _image("dinov3", "vit", "DINOv3ViTModel", 16, INFERENCE, num_hidden_layers=3),
    _image(
        "beit",
        "vit",
        "BeitModel",
        8,
        INFERENCE,
        num_hidden_layers=3,
        use_relative_position_bias=True,
    ),
    _image("siglip-vision", "vit", "SiglipVisionModel", 16, BOTH, num_hidden_layers=3),
    _image(
        "clip",
        "vit",
        "CLIPModel",
        16,
        BOTH,
        extra={"input_ids": ints(16, 77)},
        text_config={"num_hidden_layers": 2, "eos_token_id": 2},
        vision_config={"num_hidden_layers": 2},
    ),
    _image("segformer", "vit", "SegformerModel", 8, INFERENCE, depths=[1, 1, 1, 1]),
    _image("mobilevit", "vit", "MobileViTModel", 8, INFERENCE, size=256),
    _image("pvt-v2", "vit", "PvtV2Model", 8, INFERENCE, depths=[1, 1, 1, 1]),
    _timm("mixer_b16_224", "vit", 16, BOTH, num_classes=0),
    _timm("xcit_nano_12_p16_224", "vit", 8, INFERENCE),
    _timm("maxvit_pico_rw_256", "vit", 4, INFERENCE, size=256),
)

CONVNETS: tuple[Row, ...] = (
    _image("resnet50", "convnet", "ResNetModel", 16, BOTH, depths=[2, 2, 2, 2]),
    _image(
        "resnet50-fp32",
        "convnet",
        "ResNetModel",
        16,
        TRAINING,
        dtype=torch.float32,
        depths=[1, 1, 1, 1],
    ),
    _image("regnet", "convnet", "RegNetModel", 16, BOTH, depths=[1, 2, 3, 1]),
    _image("convnext-tiny", "convnet", "ConvNextModel", 16, BOTH, depths=[1, 1, 2, 1]),
    _image("convnextv2", "convnet", "ConvNextV2Model", 16, INFERENCE, depths=[1, 1, 2, 1]),
    _image(
        "efficientnet-b0",
        "convnet",
        "EfficientNetModel",
        16,
        BOTH,
        width_coefficient=1.0,
        depth_coefficient=0.5,
        hidden_dim=1280,
    ),
    _image("mobilenet-v2", "convnet", "MobileNetV2Model", 16, BOTH),
    _image("mobilenet-v1", "convnet", "MobileNetV1Model", 16, INFERENCE),
    _timm("mobilenetv3_large_100", "convnet", 16, BOTH),
    _timm("efficientnetv2_rw_t", "convnet", 8, INFERENCE),
    _timm("densenet121", "convnet", 8, INFERENCE),
    _timm("ghostnet_100", "convnet", 16, INFERENCE),
    _timm("seresnet18", "convnet", 16, BOTH),
    _timm("repvgg_a2", "convnet", 16, INFERENCE),
)

VISION: tuple[Row, ...] = (*VITS, *CONVNETS)
