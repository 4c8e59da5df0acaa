"""What a policy adds to a cold compile on a CPU: paired with stock, interleaved, median of many.

``python benchmarks/run.py compile --pairs 11 --json FILE``, or ``make bench``.  Every compile is a
real one: Dynamo, AOTAutograd, Inductor and the C++ compiler, with an empty cache folder; of a step,
forward and backward.  "Planning" is what the policy `plan` says its searches took; a step's choice
of what to save comes on top, and is in the ratio.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._inductor import config
from torch._inductor.utils import fresh_cache

import torch_materialize as tm
from paired.machine import save
from torch_materialize.events import log
from torch_materialize.models.decoder import Decoder

Made = tuple[Callable[..., object], tuple[torch.Tensor, ...]]


def decoder(layers: int) -> Made:
    return Decoder(layers, 128, 256, dtype=torch.float32).eval(), (torch.randn(64, 128),)


def encoder(layers: int) -> Made:
    # With it each layer is one operator, and nothing is left to fuse.
    torch.backends.mha.set_fastpath_enabled(False)
    layer = nn.TransformerEncoderLayer(128, 4, 256, batch_first=True, norm_first=True)
    model = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False).eval()
    return model, (torch.randn(2, 64, 128),)


def convnet(widths: tuple[int, ...]) -> Made:
    """Nothing repeats here: every block has another width."""
    blocks: list[nn.Module] = []
    before = 3
    for width in widths:
        blocks += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.SiLU()]
        before = width
    return nn.Sequential(*blocks).eval(), (torch.randn(2, 3, 16, 16),)


def pointwise(steps: int) -> Made:
    def chain(x: torch.Tensor) -> list[torch.Tensor]:
        kept = []
        for step in range(steps):
            x = x * 1.01 + x.roll(1, 0) if step % 5 == 0 else (x + step).sin()
            kept.append(x.mean(-1))
        return kept

    return chain, (torch.randn(64, 128),)


_STEP = "training step"
CASES: dict[str, Callable[[], Made]] = {
    "decoder, 4 layers": lambda: decoder(4),
    "decoder, 32 layers": lambda: decoder(32),
    "decoder, 100 layers": lambda: decoder(100),
    "encoder, 12 layers": lambda: encoder(12),
    "convnet, 30 widths": lambda: convnet(tuple(range(8, 38))),
    "pointwise, 60 steps": lambda: pointwise(60),
    f"{_STEP}, decoder, 4 layers": lambda: decoder(4),
    f"{_STEP}, decoder, 12 layers": lambda: decoder(12),
    f"{_STEP}, encoder, 4 layers": lambda: encoder(4),
}


class _Notes(logging.Handler):
    """Collects what the planner says of each graph."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes = 0
        self.planning = 0.0

    def __enter__(self) -> _Notes:
        log.addHandler(self)
        log.setLevel(logging.INFO)
        return self

    def __exit__(self, *exc: object) -> None:
        log.removeHandler(self)
        log.setLevel(logging.NOTSET)

    def emit(self, record: logging.LogRecord) -> None:
        planned = getattr(record, "planned", None)
        if planned is not None:
            self.nodes += planned["nodes"]
            self.planning += planned["seconds"]


def compile_seconds(case: str, policy: str, notes: _Notes | None = None) -> float:
    model, inputs = CASES[case]()
    torch._dynamo.reset()
    is_step = case.startswith(_STEP)
    with (
        torch.set_grad_enabled(is_step),
        fresh_cache(),
        config.patch(force_disable_caches=True),
    ):
        start = time.perf_counter()
        result = torch.compile(model, options=tm.options(policy))(*inputs)
        if is_step:
            result.sum().backward()
        return time.perf_counter() - start


def measure(case: str, policy: str, pairs: int) -> dict[str, float]:
    compile_seconds(case, "stock")  # first use of everything is not what is measured
    times: dict[str, list[float]] = {"stock": [], policy: []}
    with _Notes() as notes:
        for index in range(pairs):
            # Alternate who goes first, so that drift of the machine favours nobody.
            for name in ("stock", policy) if index % 2 else (policy, "stock"):
                times[name].append(compile_seconds(case, name))
    ratios = [ours / stock for ours, stock in zip(times[policy], times["stock"], strict=True)]
    return {
        "nodes": notes.nodes // pairs,
        "stock_seconds": round(statistics.median(times["stock"]), 3),
        "policy_seconds": round(statistics.median(times[policy]), 3),
        "planning_seconds": round(notes.planning / pairs, 3),
        "median_ratio": round(statistics.median(ratios), 4),
        "lowest_ratio": round(min(ratios), 4),
        "highest_ratio": round(max(ratios), 4),
    }


def main(chosen: Any) -> int:
    results = {}
    for case in chosen.cases or CASES:
        results[case] = measure(case, chosen.policy, chosen.pairs)
        if chosen.json:
            save(chosen.json, policy=chosen.policy, pairs=chosen.pairs, cases=results)
        print(case, results[case], flush=True)
    return 0
