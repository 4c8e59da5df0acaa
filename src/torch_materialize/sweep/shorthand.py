"""Short forms in which the corpus is written down, one for each source of models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .spec import Input, Mode, Model, floats, ints

__all__ = [
    "BOTH",
    "INFERENCE",
    "TRAINING",
    "audio",
    "bert_like",
    "diffusers",
    "image",
    "labels",
    "llama_like",
    "mask",
    "text",
    "timm",
]

BOTH: tuple[Mode, ...] = ("inference", "training")
INFERENCE: tuple[Mode, ...] = ("inference",)
TRAINING: tuple[Mode, ...] = ("training",)


def text(
    name: str,
    family: str,
    model_class: str,
    batch: int,
    length: int,
    modes: tuple[Mode, ...],
    *,
    extra: Mapping[str, Input] | None = None,
    dtype: str = "bfloat16",
    **config: Any,
) -> Model:
    """A transformers model over token ids; ``extra`` adds inputs to ``input_ids``."""
    return Model(
        name=name,
        family=family,
        target=f"transformers:{model_class}",
        config=config,
        inputs={"input_ids": ints(batch, length), **(extra or {})},
        modes=modes,
        dtype=dtype,
    )


def labels(batch: int, length: int) -> dict[str, Input]:
    """Labels for a model that computes its own loss."""
    return {"labels": ints(batch, length)}


def mask(batch: int, length: int) -> dict[str, Input]:
    """A padding mask, as encoders get it."""
    return {"attention_mask": ints(batch, length)}


def llama_like(layers: int, hidden: int, inner: int, heads: int, kv_heads: int) -> dict[str, Any]:
    """Sizes of a model with Llama's configuration keys."""
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
    }


def bert_like(layers: int = 3, hidden: int = 768) -> dict[str, Any]:
    """Sizes of a model with BERT's configuration keys, heads of 64."""
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_attention_heads": hidden // 64,
    }


def audio(
    name: str,
    model_class: str,
    inputs: Mapping[str, Input],
    modes: tuple[Mode, ...] = INFERENCE,
    **config: Any,
) -> Model:
    """A transformers model over waveforms or spectrograms."""
    return Model(
        name=name,
        family="audio",
        target=f"transformers:{model_class}",
        config=config,
        inputs=inputs,
        modes=modes,
    )


def image(
    name: str,
    family: str,
    model_class: str,
    batch: int,
    modes: tuple[Mode, ...],
    *,
    size: int = 224,
    dtype: str = "bfloat16",
    extra: Mapping[str, Input] | None = None,
    **config: Any,
) -> Model:
    """A transformers model over square ``pixel_values``; ``extra`` adds inputs."""
    return Model(
        name=name,
        family=family,
        target=f"transformers:{model_class}",
        config=config,
        inputs={"pixel_values": floats(batch, 3, size, size), **(extra or {})},
        modes=modes,
        dtype=dtype,
    )


def timm(
    name: str, family: str, batch: int, modes: tuple[Mode, ...], *, size: int = 224, **config: Any
) -> Model:
    """A timm model over square images.

    Its constructors read tensor values (stochastic depth), so it is built for real.
    """
    return Model(
        name=f"timm-{name}",
        family=family,
        target=f"timm:{name}",
        config=config,
        inputs=(floats(batch, 3, size, size),),
        modes=modes,
        on_meta=False,
    )


def diffusers(
    name: str,
    family: str,
    model_class: str,
    inputs: Mapping[str, Input],
    modes: tuple[Mode, ...] = INFERENCE,
    **config: Any,
) -> Model:
    """A diffusers model; tuples instead of output objects, as its pipelines want it."""
    return Model(
        name=name,
        family=family,
        target=f"diffusers:{model_class}",
        config=config,
        inputs=inputs,
        options={"return_dict": False},
        modes=modes,
    )
