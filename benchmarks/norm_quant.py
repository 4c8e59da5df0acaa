"""Bytes of fused add + RMSNorm + quantization on a planned GPU, beside the least possible.

``python benchmarks/norm_quant.py`` prints the table of ``docs/norm-quant.md``; names of cases
choose those.  Nothing runs: the kernels are those of a trial lowering.  Each case adds a residual,
normalizes and quantizes, in plain PyTorch.  The least reads every input once and writes every
output once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

import torch_materialize as tm
from torch_materialize.core.traffic import Traffic

ROWS, WIDTH = 8192, 4096
EPSILON = 1e-6
FP8 = torch.float8_e4m3fn
FP8_MAX = torch.finfo(FP8).max
FP4_MAX = 6.0
# Halfway between two neighbours of those that fp4 (e2m1) can hold: 0, 0.5, 1, 1.5, 2, 3, 4, 6.
FP4_BORDERS = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)


def add_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> Any:
    """The sum in fp32, normalized and rounded; and the rounded sum, for the next layer."""
    total = x.float() + residual.float()
    scale = torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + EPSILON)
    return (total * scale).to(x.dtype) * weight, total.to(x.dtype)


def to_fp8(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(-FP8_MAX, FP8_MAX).to(FP8)


def groups_of(x: torch.Tensor, size: int) -> torch.Tensor:
    return x.float().unflatten(-1, (-1, size))


def fp8_static(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> Any:
    """One scale, known beforehand: an input of one number would be the same."""
    y, residual = add_norm(x, residual, weight)
    return to_fp8(y.float() * 12.5), residual


def fp8_tensor(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> Any:
    """One scale for the tensor, from its largest element."""
    y, residual = add_norm(x, residual, weight)
    scale = y.abs().amax().float().clamp(min=1e-12) / FP8_MAX
    return to_fp8(y.float() / scale), scale, residual


def fp8_token(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> Any:
    """A scale for each row."""
    y, residual = add_norm(x, residual, weight)
    scale = y.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / FP8_MAX
    return to_fp8(y.float() / scale), scale, residual


def fp8_group(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> Any:
    """A scale for each 128 neighbours in a row."""
    y, residual = add_norm(x, residual, weight)
    parts = groups_of(y, 128)
    scale = parts.abs().amax(-1, keepdim=True).clamp(min=1e-12) / FP8_MAX
    return to_fp8(parts / scale).flatten(-2), scale.squeeze(-1), residual


def int8_token(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> Any:
    """A scale for each row; whole numbers from -127 to 127."""
    y, residual = add_norm(x, residual, weight)
    scale = y.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / 127
    return (y.float() / scale).round().clamp(-127, 127).to(torch.int8), scale, residual


def mxfp8(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> Any:
    """A power of two for each 32 neighbours, written as its exponent plus 127."""
    y, residual = add_norm(x, residual, weight)
    parts = groups_of(y, 32)
    largest = parts.abs().amax(-1, keepdim=True).clamp(min=2.0**-100)
    exponent = torch.ceil(torch.log2(largest / FP8_MAX)).clamp(-127, 127)
    stored = (exponent + 127).to(torch.uint8).squeeze(-1)
    return to_fp8(parts * torch.exp2(-exponent)).flatten(-2), stored, residual


def nvfp4(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> Any:
    """A scale in fp8 for each 16 neighbours; two numbers of four bits in a byte."""
    y, residual = add_norm(x, residual, weight)
    parts = groups_of(y, 16)
    scale = to_fp8(parts.abs().amax(-1, keepdim=True) / FP4_MAX)
    scaled = parts / scale.float().clamp(min=2.0**-9)
    magnitude = sum((scaled.abs() > border).to(torch.uint8) for border in FP4_BORDERS)
    code = (magnitude + 8 * (scaled < 0).to(torch.uint8)).flatten(-2)
    return code[..., ::2] | code[..., 1::2] << 4, scale.squeeze(-1), residual


CASES: dict[str, Callable[..., Any]] = {
    case.__name__: case
    for case in (fp8_static, fp8_tensor, fp8_token, fp8_group, int8_token, mxfp8, nvfp4)
}


def inputs(rows: int = ROWS, width: int = WIDTH) -> tuple[torch.Tensor, ...]:
    """What every case takes: a layer's result, the residual and the weight, in bf16."""
    shapes = (rows, width), (rows, width), (width,)
    return tuple(torch.randn(shape).to(torch.bfloat16) for shape in shapes)


def _built(case: Callable[..., Any]) -> Any:
    """A target of ``agree``: a case and its inputs, few enough to be interpreted."""
    torch.manual_seed(0)
    return case, inputs(16, 1024)


def fp8_static_built() -> Any:
    return _built(fp8_static)


def fp8_token_built() -> Any:
    return _built(fp8_token)


def fp8_group_built() -> Any:
    return _built(fp8_group)


def int8_token_built() -> Any:
    return _built(int8_token)


def mxfp8_built() -> Any:
    return _built(mxfp8)


def nvfp4_built() -> Any:
    return _built(nvfp4)


def least(case: Callable[..., Any], args: tuple[torch.Tensor, ...]) -> int:
    """Bytes of the inputs and the outputs."""
    with torch._subclasses.FakeTensorMode() as mode:
        fakes = tuple(mode.from_tensor(x) for x in args)
        return sum(x.numel() * x.element_size() for x in (*fakes, *case(*fakes)))


def moved(case: Callable[..., Any], args: tuple[torch.Tensor, ...]) -> dict[str, Traffic]:
    """Policy -> what its kernels move on a planned H200."""
    policies = ("stock", "traffic", "plan")
    with torch.no_grad():
        found = tm.explain(case, *args, policies=policies).explanation
    return {policy: found.traffic(policy) for policy in policies}


def main(names: list[str]) -> None:
    """Prints the table."""
    args = inputs()
    sys.stdout.write(
        f"torch {torch.__version__}, {ROWS} rows of {WIDTH}, bf16; MB moved (kernels).\n\n"
        "| case | least | stock | traffic | plan | plan above least |\n|---|---|---|---|---|---|\n"
    )
    for name in names or CASES:
        floor, found = least(CASES[name], args), moved(CASES[name], args)
        cells = [f"{one.bytes / 1e6:.1f} ({one.kernels})" for one in found.values()]
        above = found["plan"].bytes / floor - 1
        row = (name, f"{floor / 1e6:.1f}", *cells, f"{above:.1%}")
        sys.stdout.write(f"| {' | '.join(row)} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
