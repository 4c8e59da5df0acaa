"""Lets an eager engine add up the means of its norms in the order of Inductor's kernels.

Eager's sums and Inductor's go through a row in different orders, and no rounding makes up for
that.  Everything else stays eager's: what then differs from a compiled engine is a rounding.
"""

from __future__ import annotations

import torch


def _mean_of_squares(x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
    wide = x.float() if residual is None else x.float() + residual.float()
    return wide.pow(2).mean(dim=-1, keepdim=True)


_compiled = torch.compile(_mean_of_squares, dynamic=True)


def install() -> None:
    """For RMS norms, as vLLM's ``forward_native`` has them, of an engine in this process."""
    from vllm.model_executor.layers.layernorm import RMSNorm

    RMSNorm.forward_native = _forward


def _forward(self, x, residual=None):
    dtype, weight, x = x.dtype, self.weight.data, x.contiguous()
    mean, wide = _compiled(x, residual), x.float()
    if residual is not None:
        wide = wide + residual.float()
    normed = wide * torch.rsqrt(mean + self.variance_epsilon)
    normed = (normed.to(weight.dtype) * weight).to(dtype)
    return normed if residual is None else (normed, wide.to(dtype))
