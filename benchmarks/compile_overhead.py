"""What a policy adds to a cold compile on CPU: paired with stock, interleaved, median of many.

    make bench                                   # or: python benchmarks/compile_overhead.py
    python benchmarks/compile_overhead.py --pairs 11 --json FILE

Every compile is a real one: Dynamo, AOTAutograd, Inductor, the C++ compiler, no cache.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import torch_materialize as tm
from torch_materialize.models.decoder import Decoder
from torch_materialize.versions import installed_versions


def decoder() -> tuple[Callable[..., object], tuple[torch.Tensor, ...]]:
    return Decoder(4, 128, 256, dtype=torch.float32).eval(), (torch.randn(64, 128),)


def encoder() -> tuple[Callable[..., object], tuple[torch.Tensor, ...]]:
    layer = nn.TransformerEncoderLayer(128, 4, 256, batch_first=True, norm_first=True)
    model = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False).eval()
    return model, (torch.randn(2, 64, 128),)


def pointwise() -> tuple[Callable[..., object], tuple[torch.Tensor, ...]]:
    def chain(x: torch.Tensor) -> list[torch.Tensor]:
        kept = []
        for step in range(60):
            x = x * 1.01 + x.roll(1, 0) if step % 5 == 0 else (x + step).sin()
            kept.append(x.mean(-1))
        return kept

    return chain, (torch.randn(64, 128),)


CASES = {"decoder": decoder, "encoder": encoder, "pointwise": pointwise}


def compile_seconds(case: str, policy: str) -> float:
    model, inputs = CASES[case]()
    torch._dynamo.reset()
    start = time.perf_counter()
    with torch.no_grad(), torch._inductor.config.patch(force_disable_caches=True):
        torch.compile(model, options=tm.options(policy))(*inputs)
    return time.perf_counter() - start


def measure(case: str, policy: str, pairs: int) -> dict[str, float]:
    compile_seconds(case, "stock")  # first use of everything is not what is measured
    times: dict[str, list[float]] = {"stock": [], policy: []}
    for index in range(pairs):
        # Alternate who goes first, so that drift of the machine favours nobody.
        for name in ("stock", policy) if index % 2 else (policy, "stock"):
            times[name].append(compile_seconds(case, name))
    ratios = [ours / stock for ours, stock in zip(times[policy], times["stock"], strict=True)]
    return {
        "stock_seconds": round(statistics.median(times["stock"]), 3),
        "policy_seconds": round(statistics.median(times[policy]), 3),
        "median_ratio": round(statistics.median(ratios), 4),
        "lowest_ratio": round(min(ratios), 4),
        "highest_ratio": round(max(ratios), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", default="traffic")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    console = Console()
    table = Table(title=f"Cold CPU compile, {chosen.policy} against stock, {chosen.pairs} pairs")
    for heading in ("case", "stock s", f"{chosen.policy} s", "median ratio", "range"):
        table.add_column(heading)
    results = {}
    for case in CASES:
        found = results[case] = measure(case, chosen.policy, chosen.pairs)
        table.add_row(
            case,
            f"{found['stock_seconds']:.2f}",
            f"{found['policy_seconds']:.2f}",
            f"{found['median_ratio']:.3f}",
            f"{found['lowest_ratio']:.3f} to {found['highest_ratio']:.3f}",
        )
    console.print(table)
    if chosen.json:
        record = {
            "date": datetime.date.today().isoformat(),
            "versions": installed_versions(),
            "policy": chosen.policy,
            "pairs": chosen.pairs,
            "cases": results,
        }
        chosen.json.write_text(json.dumps(record, indent=1) + "\n")
        sys.stdout.write(f"written to {chosen.json}\n")


if __name__ == "__main__":
    main()
