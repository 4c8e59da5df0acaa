"""A small random language model of our own, to be compiled whole or in pieces.

Attention is an opaque operator, as in vLLM, so that every way of cutting the model runs the
same one; norms are vLLM's (fp32 sum, bf16 residual).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

__all__ = [
    "CUTS",
    "Language",
    "add_norm",
    "around_one",
    "attention",
    "cut",
    "greedy",
    "random_weight",
    "rotate",
]

#: Ways to compile a model: name -> what stands alone in a graph of its own.
CUTS = {
    "whole": "nothing: one graph",
    "layers": "each layer",
    "attention": "what stands between two attentions",
    "linear": "what stands between two matmuls or attentions",
}


@functools.cache
def attention() -> Callable[..., torch.Tensor]:
    """Causal attention over ``(heads, tokens, width)``, opaque to the compiler."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)
        return out[0].contiguous()

    def fake(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(v, memory_format=torch.contiguous_format)

    name = "torch_materialize_models::attention"
    torch.library.custom_op(name, attend, mutates_args=()).register_fake(fake)
    overload: Callable[..., torch.Tensor] = torch.ops.torch_materialize_models.attention.default
    return overload


class Layer(nn.Module):
    """Norm, attention with rotary positions, norm, gated MLP."""

    def __init__(self, hidden: int, heads: int, attend: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.heads = heads
        self.attend = attend
        self.linear = torch.matmul
        self.norms = nn.ParameterList([around_one(hidden) for _ in range(2)])
        self.qkv = random_weight(hidden, 3 * hidden)
        self.out = random_weight(hidden, hidden)
        self.gate_up = random_weight(hidden, 4 * hidden)
        self.down = random_weight(2 * hidden, hidden)

    def forward(
        self, x: torch.Tensor, residual: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``(tokens, hidden)`` twice and the angles; the new pair."""
        x, residual = add_norm(x, residual, self.norms[0])
        q, k, v = self.linear(x, self.qkv).view(len(x), 3, self.heads, -1).permute(1, 2, 0, 3)
        x = self.attend(rotate(q, cos, sin), rotate(k, cos, sin), v)
        x = self.linear(x.transpose(0, 1).reshape(residual.shape), self.out)
        x, residual = add_norm(x, residual, self.norms[1])
        gate, up = self.linear(x, self.gate_up).chunk(2, -1)
        return self.linear(nn.functional.silu(gate) * up, self.down), residual


class Language(nn.Module):
    """Token ids ``(tokens,)`` in, logits ``(tokens, vocabulary)`` out.

    Args:
        dtype: of weights and activations.
    """

    def __init__(
        self,
        layers: int = 4,
        hidden: int = 256,
        heads: int = 4,
        vocabulary: int = 1000,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        super().__init__()
        self.dtype = dtype
        self.breaks = False
        self.width = hidden // heads
        self.embedding = nn.Parameter(torch.randn(vocabulary, hidden))
        self.layers = nn.ModuleList([Layer(hidden, heads, attention()) for _ in range(layers)])
        self.norm = around_one(hidden)
        self.head = random_weight(hidden, vocabulary)
        self.to(dtype)

    def copy(self, dtype: torch.dtype | None = None) -> Language:
        """A copy with the same weights, in another dtype where one is named."""
        other = copy.deepcopy(self)
        other.dtype = dtype or self.dtype
        return other.to(other.dtype)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """One pass over all tokens."""
        x = self.embedding[ids]
        residual = torch.zeros_like(x)
        cos, sin = self._angles(len(ids), ids.device)
        for layer in self.layers:
            if self.breaks:
                torch._dynamo.graph_break()
            x, residual = layer(x, residual, cos, sin)
        return add_norm(x, residual, self.norm)[0] @ self.head

    def _angles(self, tokens: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        powers = torch.arange(0, self.width, 2, dtype=torch.float32, device=device) / self.width
        places = torch.arange(tokens, dtype=torch.float32, device=device)
        angles = torch.outer(places, 10000.0**-powers)
        return angles.cos().to(self.dtype), angles.sin().to(self.dtype)


def add_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """vLLM's fused add + RMSNorm: the sum stays in fp32, the residual is handed on narrow."""
    dtype = x.dtype
    accurate = torch.promote_types(dtype, torch.float32)
    wide = x.to(accurate) + residual.to(accurate)
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return (wide * scale).to(dtype) * weight, wide.to(dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions, by halves; angles broadcast against ``(..., width / 2)``."""
    left, right = x.chunk(2, -1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)


def random_weight(rows: int, columns: int) -> nn.Parameter:
    """A matrix that keeps the size of what it multiplies."""
    return nn.Parameter(torch.randn(rows, columns) / rows**0.5)


def around_one(size: int) -> nn.Parameter:
    """A norm's weight, not quite 1."""
    return nn.Parameter(1 + 0.1 * torch.randn(size))


def cut(model: Language, where: str, **how: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """The model compiled in pieces, one of :data:`CUTS`; ``how`` is for ``torch.compile``.

    The model itself is changed: what it calls is compiled, or kept out of the graphs.
    """
    if where not in CUTS:
        raise ValueError(f"unknown cut {where!r}: expected one of {', '.join(CUTS)}")
    model.breaks = where == "layers"
    for layer in model.layers:
        if where in ("attention", "linear"):
            layer.attend = torch.compiler.disable(layer.attend)
        if where == "linear":
            layer.linear = torch.compiler.disable(torch.matmul)
    compiled: Callable[[torch.Tensor], torch.Tensor] = torch.compile(model, **how)
    return compiled


def greedy(
    model: Callable[[torch.Tensor], torch.Tensor],
    prompt: Sequence[int],
    steps: int,
    window: int,
    device: str = "cpu",
) -> tuple[list[int], torch.Tensor]:
    """``steps`` tokens after ``prompt``, and the logits of each, ``(steps, vocabulary)``.

    Every pass is over the last ``window`` tokens, so that one compiled shape serves all.
    """
    ids = list(prompt)
    seen = []
    for _ in range(steps):
        known = ids[-window:]
        padded = torch.tensor(known + [0] * (window - len(known)), device=device)
        with torch.no_grad():
            logits = model(padded)[len(known) - 1]
        seen.append(logits.clone())
        ids.append(int(logits.argmax()))
    return ids[len(prompt) :], torch.stack(seen)
