"""Layers of public language models in vLLM's style, with random weights.

Norms keep the sum in fp32 and hand the residual on in bf16; attention and experts are operators
that the compiler does not look into, as in vLLM.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from torch_materialize.models.language import add_norm, around_one, random_weight, rotate

from .opaque import NAMESPACE


@dataclass(frozen=True)
class Geometry:
    """Sizes as in the model's public configuration.

    Attributes:
        layers: of the whole model; a benchmark says how many of them it runs.
        experts: 0 for a dense MLP; ``chosen`` of them for each token.
    """

    name: str
    hidden: int
    heads: int
    kv_heads: int
    width: int
    intermediate: int
    layers: int
    experts: int = 0
    chosen: int = 0
    norm_heads: bool = False

    def smaller(self, divisor: int) -> Geometry:
        """The same shape with fewer heads and columns."""
        return replace(
            self,
            hidden=self.hidden // divisor,
            heads=max(self.heads // divisor, 1),
            kv_heads=max(self.kv_heads // divisor, 1),
            intermediate=self.intermediate // divisor,
            experts=max(self.experts // divisor, 2 * self.chosen) if self.experts else 0,
        )


LLAMA = Geometry("llama-3.1-8b", 4096, 32, 8, 128, 14336, 32)
QWEN_MOE = Geometry(
    "qwen3-30b-a3b", 2048, 32, 4, 128, 768, 48, experts=128, chosen=8, norm_heads=True
)

GEOMETRIES = {geometry.name: geometry for geometry in (LLAMA, QWEN_MOE)}

Operator = Callable[..., torch.Tensor]


def _operator(name: str, real: Operator, fake: Operator) -> Operator:
    torch.library.custom_op(f"{NAMESPACE}::{name}", real, mutates_args=()).register_fake(fake)
    made: Operator = getattr(getattr(torch.ops, NAMESPACE), name)
    return made


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    heads = (x.transpose(0, 1)[None] for x in (q, k, v))
    out = nn.functional.scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=True)
    return out[0].transpose(0, 1).contiguous()


def _like_q(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return q.new_empty(q.shape)


def _mix_experts(
    x: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor, up: torch.Tensor, down: torch.Tensor
) -> torch.Tensor:
    # Every expert over an equal share of the tokens: the cost of a balanced router, and shapes
    # that do not depend on data, so that a CUDA graph can hold it.
    experts = up.shape[0]
    share = -(-x.shape[0] * ids.shape[1] // experts)
    rows = torch.arange(experts * share, device=x.device).remainder(x.shape[0])
    gate, value = torch.bmm(x[rows].view(experts, share, -1), up).chunk(2, -1)
    out = torch.bmm(nn.functional.silu(gate) * value, down).flatten(0, 1)
    return torch.zeros_like(x).index_add_(0, rows, out)


def _mix_fake(
    x: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor, up: torch.Tensor, down: torch.Tensor
) -> torch.Tensor:
    return x.new_empty(x.shape)


attention = _operator("attention", _attend, _like_q)
experts = _operator("experts", _mix_experts, _mix_fake)


class Attention(nn.Module):
    def __init__(self, g: Geometry) -> None:
        super().__init__()
        self.g = g
        self.qkv = random_weight(g.hidden, (g.heads + 2 * g.kv_heads) * g.width)
        self.out = random_weight(g.heads * g.width, g.hidden)
        self.norms = nn.ParameterList([around_one(g.width) for _ in range(2 * g.norm_heads)])

    def forward(self, x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        g = self.g
        heads = (x @ self.qkv).view(len(x), -1, g.width)
        q, k, v = heads.split([g.heads, g.kv_heads, g.kv_heads], 1)
        if self.norms:
            q, k = _norm(q, self.norms[0]), _norm(k, self.norms[1])
        cos, sin = angles[:, None].chunk(2, -1)
        x = attention(rotate(q, cos, sin), rotate(k, cos, sin), v.contiguous())
        return x.flatten(1) @ self.out


class Mlp(nn.Module):
    def __init__(self, g: Geometry) -> None:
        super().__init__()
        self.gate_up = random_weight(g.hidden, 2 * g.intermediate)
        self.down = random_weight(g.intermediate, g.hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = (x @ self.gate_up).chunk(2, -1)
        return (nn.functional.silu(gate) * up) @ self.down


class Experts(nn.Module):
    def __init__(self, g: Geometry) -> None:
        super().__init__()
        self.chosen = g.chosen
        self.router = random_weight(g.hidden, g.experts)
        self.up = nn.Parameter(torch.randn(g.experts, g.hidden, 2 * g.intermediate) / g.hidden**0.5)
        self.down = nn.Parameter(torch.randn(g.experts, g.intermediate, g.hidden) / g.hidden**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = (x @ self.router).float().softmax(-1)
        weights, ids = scores.topk(self.chosen, -1)
        weights = (weights / weights.sum(-1, keepdim=True)).to(x.dtype)
        return experts(x, weights, ids, self.up, self.down)


class Layers(nn.Module):
    """``(tokens, hidden)`` activations and positions ``(tokens,)`` in, activations out."""

    def __init__(
        self, g: Geometry, layers: int, dtype: torch.dtype = torch.bfloat16, positions: int = 8192
    ) -> None:
        super().__init__()
        self.mixers = nn.ModuleList([Attention(g) for _ in range(layers)])
        self.mlps = nn.ModuleList([Experts(g) if g.experts else Mlp(g) for _ in range(layers)])
        self.norms = nn.ParameterList([around_one(g.hidden) for _ in range(2 * layers + 1)])
        powers = torch.arange(0, g.width, 2, dtype=torch.float32) / g.width
        angles = torch.outer(torch.arange(positions, dtype=torch.float32), 10000.0**-powers)
        self.angles: torch.Tensor
        self.register_buffer("angles", torch.cat([angles.cos(), angles.sin()], -1))
        self.to(dtype)

    def forward(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        angles = self.angles[positions]
        residual = torch.zeros_like(x)
        norms = iter(self.norms)
        for mixer, mlp in zip(self.mixers, self.mlps, strict=True):
            x, residual = add_norm(x, residual, next(norms))
            x, residual = add_norm(mixer(x, angles), residual, next(norms))
            x = mlp(x)
        return add_norm(x, residual, next(norms))[0]


def _norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    wide = x.float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return (wide * scale).to(x.dtype) * weight
