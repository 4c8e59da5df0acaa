"""How much of a fused add and RMSNorm's time on a CPU is moving bytes, and how much computing.

    python benchmarks/in_cache.py

The kernel that a plan makes of vLLM's residual norms reads two tensors and writes two.  Here it
runs over few rows, which a core's own cache holds, and over many, which it does not.  The time of a
row is the slope between two numbers of rows, so that what a call takes does not count.  If a row
takes as long in the cache, no plan can make the kernel faster: it computes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch

import torch_materialize as tm
from paired.pages import keep_pages

_NEAR, _FAR = (64, 192), (4096, 12288)
_ROUNDS = 15


def norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    wide = x.float() + residual.float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return (wide * scale).to(x.dtype) * weight, wide.to(x.dtype)


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--hidden", type=int, default=2048)
    hidden = parser.parse_args().hidden
    keep_pages()
    step = torch.compile(norm, dynamic=True, options=tm.options("stock"))
    slopes = dict(zip(("cache", "memory"), _slopes(step, hidden), strict=True))
    for place, seconds in slopes.items():
        rate = 4 * 2 * hidden / seconds / 1e9
        sys.stdout.write(f"from {place}: {1e9 * seconds:.0f} ns for each row, {rate:.1f} GB/s\n")
    sys.stdout.write(f"memory / cache: {slopes['memory'] / slopes['cache']:.2f}\n")


def _slopes(step: Callable[..., object], hidden: int) -> list[float]:
    """Median seconds of a row among few rows, and among many."""
    weight = torch.randn(hidden).bfloat16()
    made = {
        rows: tuple(torch.randn(rows, hidden).bfloat16() for _ in range(2))
        for rows in (*_NEAR, *_FAR)
    }
    found: dict[tuple[int, int], list[float]] = {_NEAR: [], _FAR: []}
    with torch.no_grad():
        for _ in range(_ROUNDS):
            for (few, many), slopes in found.items():
                one, other = (_seconds(step, *made[n], weight) for n in (few, many))
                slopes.append((other - one) / (many - few))
    return [statistics.median(slopes) for slopes in found.values()]


def _seconds(step: Callable[..., object], *args: torch.Tensor) -> float:
    calls = max(_FAR[0] // len(args[0]), 1)
    step(*args)
    start = time.perf_counter()
    for _ in range(calls):
        step(*args)
    return (time.perf_counter() - start) / calls


if __name__ == "__main__":
    main()
