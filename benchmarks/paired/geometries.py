"""Layers of public language models in vLLM's style, with random weights.

Norms keep the sum in fp32 and hand the residual on in bf16; attention, experts and the linear
attention's scan are operators that the compiler does not look into, as in vLLM.
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
        full_every: every so many layers attend to everything, the others linearly; 1 for all.
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
    full_every: int = 1

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
# The sizes of Qwen3-Next-80B-A3B with a dense MLP: three layers of gated linear attention, then
# one of full attention.
HYBRID = Geometry(
    "linear-attention-hybrid", 2048, 16, 2, 256, 5120, 48, norm_heads=True, full_every=4
)

GEOMETRIES = {geometry.name: geometry for geometry in (LLAMA, QWEN_MOE, HYBRID)}

Operator = Callable[..., torch.Tensor]
_FAKES: dict[Operator, Operator] = {}


def _operator(name: str, real: Operator, fake: Operator) -> Operator:
    torch.library.custom_op(f"{NAMESPACE}::{name}", real, mutates_args=()).register_fake(fake)
    made: Operator = getattr(getattr(torch.ops, NAMESPACE), name)
    _FAKES[made] = fake
    return made


def _stand_in(operator: Operator) -> Operator:
    """What :class:`.opaque.Opaque` puts in the place of an operator, for where no graph has it."""

    def fill(*reads: torch.Tensor) -> torch.Tensor:
        like = _FAKES[operator](*reads)
        layout = like.size(), like.stride(), like.dtype, like.device
        filled: torch.Tensor = torch.ops.torch_materialize_bench.opaque(list(reads), *layout)
        return filled

    return fill


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


def _scan(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, decay: torch.Tensor, beta: torch.Tensor
) -> torch.Tensor:
    # Stands for the gated delta rule: linear attention with a state, without its correction.
    state = torch.einsum("thk,thv->hkv", k * beta[..., None].to(k.dtype), v)
    return torch.einsum("thk,hkv->thv", q * decay.exp()[..., None].to(q.dtype), state).contiguous()


def _scan_fake(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, decay: torch.Tensor, beta: torch.Tensor
) -> torch.Tensor:
    return v.new_empty(v.shape)


def _convolve(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    padded = nn.functional.pad(x.t()[None], (weight.shape[-1] - 1, 0))
    return nn.functional.conv1d(padded, weight, groups=weight.shape[0])[0].t().contiguous()


def _convolve_fake(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape)


attention = _operator("attention", _attend, _like_q)
experts = _operator("experts", _mix_experts, _mix_fake)
scan = _operator("scan", _scan, _scan_fake)
convolve = _operator("convolve", _convolve, _convolve_fake)


class FullAttention(nn.Module):
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


class LinearAttention(nn.Module):
    def __init__(self, g: Geometry) -> None:
        super().__init__()
        self.width = 128
        self.heads = max(g.hidden // self.width, 1)
        wide = self.heads * self.width
        self.qkvz = random_weight(g.hidden, 4 * wide)
        self.ba = random_weight(g.hidden, 2 * self.heads)
        self.short = nn.Parameter(torch.randn(3 * wide, 1, 4) / 2)
        self.log_decay = nn.Parameter(torch.zeros(self.heads))
        self.bias = nn.Parameter(torch.ones(self.heads))
        self.norm = around_one(self.width)
        self.out = random_weight(wide, g.hidden)

    def forward(self, x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        wide = self.heads * self.width
        qkv, z = (x @ self.qkvz).split([3 * wide, wide], -1)
        mixed = nn.functional.silu(convolve(qkv.contiguous(), self.short))
        q, k, v = mixed.view(len(x), 3, self.heads, self.width).unbind(1)
        b, a = (x @ self.ba).chunk(2, -1)
        decay = -self.log_decay.float().exp() * nn.functional.softplus(a.float() + self.bias)
        out = scan(_unit(q), _unit(k), v.contiguous(), decay, b.sigmoid())
        gated = _norm(out, self.norm) * nn.functional.silu(z.view_as(out).float()).to(out.dtype)
        return gated.flatten(1) @ self.out


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
        full = [(i + 1) % g.full_every == 0 for i in range(layers)]
        self.mixers = nn.ModuleList([FullAttention(g) if f else LinearAttention(g) for f in full])
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


def cuts(*, opaque: bool) -> dict[Operator, Operator]:
    """The attentions, between which a model is compiled in pieces, and what is called there.

    ``opaque`` calls the stand-in instead.
    """
    return {op: _stand_in(op) if opaque else op for op in (attention, scan)}


def _norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    wide = x.float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return (wide * scale).to(x.dtype) * weight


def _unit(x: torch.Tensor) -> torch.Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).sum(-1, keepdim=True) + 1e-6)).to(x.dtype)
