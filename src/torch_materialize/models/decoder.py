"""A small decoder of our own, in the two styles that differ in what is narrow.

``vllm``: as vLLM's fused add + RMSNorm does it, the sum is kept in fp32, ``residual`` is
handed on in bf16 and the fp32 sum is normalized.  ``hf``: as transformers does it, the
residual is added in bf16 and only the norm is computed in fp32.

Each layer: norm, one H x H matmul that stands for attention, norm, gate and up in one
matmul, SiLU * mul, down matmul; one last norm.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

__all__ = ["Decoder"]

_Linear = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Decoder(nn.Module):
    """``layers`` decoder layers over ``(tokens, hidden)`` activations.

    Args:
        style: ``vllm`` or ``hf``, see the module's text.
        intermediate: columns of gate and of up; the joint matmul has twice as many.  None puts
            one H x H matmul in the place of the three.
        linear: what multiplies; tests pass an opaque operator.
        random_norms: norm weights around 1 instead of exactly 1.
    """

    def __init__(
        self,
        layers: int,
        hidden: int,
        intermediate: int | None,
        style: str = "vllm",
        linear: _Linear = torch.matmul,
        dtype: torch.dtype = torch.bfloat16,
        random_norms: bool = False,
    ) -> None:
        super().__init__()
        if style not in ("vllm", "hf"):
            raise ValueError(f"unknown decoder style {style!r}: expected 'vllm' or 'hf'")
        self.style = style
        self.linear = linear

        def weight(rows: int, columns: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(rows, columns, dtype=dtype) / rows**0.5)

        def norm() -> nn.Parameter:
            scale = torch.ones(hidden, dtype=dtype)
            return nn.Parameter(scale + 0.1 * torch.randn_like(scale) if random_norms else scale)

        self.norms = nn.ParameterList([norm() for _ in range(2 * layers + 1)])
        self.mixes = nn.ParameterList([weight(hidden, hidden) for _ in range(layers)])
        gated = [] if intermediate is None else [intermediate] * layers
        self.gate_ups = nn.ParameterList([weight(hidden, 2 * columns) for columns in gated])
        self.downs = nn.ParameterList([weight(intermediate or hidden, hidden) for _ in self.mixes])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(tokens, hidden)`` in, the same shape and dtype out."""
        residual = None
        norms = iter(self.norms)
        gate_ups = iter(self.gate_ups)
        for mix, down in zip(self.mixes, self.downs, strict=True):
            x, residual = self._norm(x, residual, next(norms))
            x = self.linear(x, mix)
            x, residual = self._norm(x, residual, next(norms))
            gate_up = next(gate_ups, None)
            if gate_up is not None:
                gate, up = self.linear(x, gate_up).chunk(2, -1)
                x = nn.functional.silu(gate) * up
            x = self.linear(x, down)
        return self._norm(x, residual, next(norms))[0]

    def _norm(
        self, x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = x.dtype
        if self.style == "vllm":
            wide = x.float() if residual is None else x.float() + residual.float()
            residual = wide.to(dtype)
        else:
            residual = x if residual is None else x + residual
            wide = residual.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return (wide * scale).to(dtype) * weight, residual
