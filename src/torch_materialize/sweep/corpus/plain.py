"""Models that need no package but torch, so that a sweep can always measure something."""

from __future__ import annotations

from ..shorthand import BOTH
from ..spec import Model, floats

__all__ = ["PLAIN"]

PLAIN: tuple[Model, ...] = (
    Model(
        name="fused-add-rmsnorm",
        family="decoder",
        target="torch_materialize.models.decoder:Decoder",
        config={"layers": 3, "hidden": 2048, "intermediate": 8192},
        inputs=(floats(4096, 2048),),
        modes=BOTH,
    ),
    Model(
        name="nn-transformer",
        family="encoder-decoder",
        target="torch.nn:Transformer",
        config={
            "d_model": 512,
            "nhead": 8,
            "num_encoder_layers": 2,
            "num_decoder_layers": 2,
            "batch_first": True,
        },
        inputs=(floats(8, 512, 512), floats(8, 256, 512)),
        modes=BOTH,
    ),
)
