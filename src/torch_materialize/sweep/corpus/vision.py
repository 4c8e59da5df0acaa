"""Vision models: transformers, two-tower models, convolutional networks."""

from __future__ import annotations

from ..shorthand import BOTH, INFERENCE, TRAINING, image, timm
from ..spec import Model, ints

__all__ = ["VISION"]

VITS: tuple[Model, ...] = (
    image("vit-base", "vit", "ViTModel", 16, BOTH, num_hidden_layers=4),
    image("deit", "vit", "DeiTModel", 16, INFERENCE, num_hidden_layers=3),
    image("swin-tiny", "vit", "SwinModel", 8, BOTH, depths=[2, 2], num_heads=[3, 6]),
    image(
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
    image("dinov2", "vit", "Dinov2Model", 16, BOTH, num_hidden_layers=3, image_size=224),
    image("dinov3", "vit", "DINOv3ViTModel", 16, INFERENCE, num_hidden_layers=3),
    image(
        "beit",
        "vit",
        "BeitModel",
        8,
        INFERENCE,
        num_hidden_layers=3,
        use_relative_position_bias=True,
    ),
    image("siglip-vision", "vit", "SiglipVisionModel", 16, BOTH, num_hidden_layers=3),
    image(
        "clip",
        "vit",
        "CLIPModel",
        16,
        BOTH,
        extra={"input_ids": ints(16, 77)},
        text_config={"num_hidden_layers": 2, "eos_token_id": 2},
        vision_config={"num_hidden_layers": 2},
    ),
    image("segformer", "vit", "SegformerModel", 8, INFERENCE, depths=[1, 1, 1, 1]),
    image("mobilevit", "vit", "MobileViTModel", 8, INFERENCE, size=256),
    image("pvt-v2", "vit", "PvtV2Model", 8, INFERENCE, depths=[1, 1, 1, 1]),
    timm("mixer_b16_224", "vit", 16, BOTH, num_classes=0),
    timm("xcit_nano_12_p16_224", "vit", 8, INFERENCE),
    timm("maxvit_pico_rw_256", "vit", 4, INFERENCE, size=256),
)

CONVNETS: tuple[Model, ...] = (
    image("resnet50", "convnet", "ResNetModel", 16, BOTH, depths=[2, 2, 2, 2]),
    image(
        "resnet50-fp32",
        "convnet",
        "ResNetModel",
        16,
        TRAINING,
        dtype="float32",
        depths=[1, 1, 1, 1],
    ),
    image("regnet", "convnet", "RegNetModel", 16, BOTH, depths=[1, 2, 3, 1]),
    image("convnext-tiny", "convnet", "ConvNextModel", 16, BOTH, depths=[1, 1, 2, 1]),
    image("convnextv2", "convnet", "ConvNextV2Model", 16, INFERENCE, depths=[1, 1, 2, 1]),
    image(
        "efficientnet-b0",
        "convnet",
        "EfficientNetModel",
        16,
        BOTH,
        width_coefficient=1.0,
        depth_coefficient=0.5,
        hidden_dim=1280,
    ),
    image("mobilenet-v2", "convnet", "MobileNetV2Model", 16, BOTH),
    image("mobilenet-v1", "convnet", "MobileNetV1Model", 16, INFERENCE),
    timm("mobilenetv3_large_100", "convnet", 16, BOTH),
    timm("efficientnetv2_rw_t", "convnet", 8, INFERENCE),
    timm("densenet121", "convnet", 8, INFERENCE),
    timm("ghostnet_100", "convnet", 16, INFERENCE),
    timm("seresnet18", "convnet", 16, BOTH),
    timm("repvgg_a2", "convnet", 16, INFERENCE),
)

VISION: tuple[Model, ...] = (*VITS, *CONVNETS)
