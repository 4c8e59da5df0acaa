"""The vLLM-style decoder on CPU under each policy and promise: answers against eager, and time.

    python benchmarks/rounding_and_time.py --json FILE

Two layers, bf16, T=4096, H=2048, with and without the gated MLP; the matmul is an opaque
operator, so that what differs is the fused kernels.  Their bytes are from a dry run, in units of
one activation.  All policies run in one process, interleaved, median of several.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import statistics
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch._inductor import config

import torch_materialize as tm
from paired.pages import keep_pages
from saving import save
from torch_materialize.core.devices import CPU
from torch_materialize.core.policy import parse
from torch_materialize.core.traffic import traffic
from torch_materialize.inductor.offline import capture as capturing
from torch_materialize.inductor.offline.dry_run import dry_run
from torch_materialize.models.decoder import Decoder

POLICIES = ("stock", "traffic", "plan:numerics=stock", "plan", "plan:numerics=eager")
#: Upstream's own switches, with stock's choices; a torch that has no such setting leaves it out.
SWITCHES = {
    f"stock, {setting}={value}": {setting: value}
    for setting, value in (
        ("emulate_precision_casts", True),
        ("emulate_precision_casts_on_saved_tensors", True),
        ("numerics", "strict_pointwise"),
        ("numerics", "strict"),
    )
    if hasattr(config, setting)
}
CASES = (*POLICIES, *SWITCHES)


@torch.library.custom_op("torch_materialize_bench::matmul", mutates_args=())
def matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    # A cheap stand-in: the bench is about what stands between matmuls.
    return (a[:, :1] * b[:1, :]).contiguous()


@matmul.register_fake
def _(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


def units(model: Decoder, x: torch.Tensor) -> dict[str, float]:
    mode = capturing.fake_mode()
    policies = [parse(policy) for policy in POLICIES]
    graphs = capturing.capture_for(policies, model, (mode.from_tensor(x),), {}, CPU, mode)
    size = x.numel() * x.element_size()
    return {
        str(policy): sum(traffic(dry_run(g, policy, CPU).graph).bytes for g in own) / size
        for policy, own in graphs.items()
    }


def options(case: str) -> dict:
    return SWITCHES.get(case) or tm.options(case)


def measure(
    gated: bool, random_norms: bool, tokens: int, hidden: int, repeats: int
) -> dict[str, dict]:
    torch.manual_seed(0)
    model = Decoder(
        2,
        hidden,
        hidden if gated else None,
        "vllm",
        torch.ops.torch_materialize_bench.matmul,
        random_norms=random_norms,
    ).eval()
    x = torch.randn(tokens, hidden, dtype=torch.bfloat16)
    want = model(x)
    moved = units(model, x)
    compiled = {}
    found: dict[str, dict] = {}
    torch._dynamo.reset()
    for case in CASES:
        with config.patch(force_disable_caches=True):
            compiled[case] = torch.compile(model, options=options(case))
            got = compiled[case](x)
        equal = (got == want).float().mean().item()
        found[case] = {"units": moved.get(case), "equal_to_eager": round(equal, 5)}
    times: dict[str, list[float]] = {case: [] for case in CASES}
    for _ in range(repeats):
        for case, function in compiled.items():
            start = time.perf_counter()
            function(x)
            times[case].append(time.perf_counter() - start)
    for case in CASES:
        found[case]["milliseconds"] = round(1e3 * statistics.median(times[case]), 2)
    return found


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    keep_pages()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("torch_materialize").setLevel(logging.INFO)
    results = {}
    table = Table(title=f"torch {torch.__version__}, T={chosen.tokens}, H={chosen.hidden}, CPU")
    for heading in ("MLP", "norm weights", "policy", "units", "equal to eager", "ms"):
        table.add_column(heading)
    cases = itertools.product(("plain", "gated"), ("ones", "random"))
    for mlp, weights in cases:
        rows = measure(
            mlp == "gated", weights == "random", chosen.tokens, chosen.hidden, chosen.repeats
        )
        results[f"{mlp}, {weights}"] = rows
        for policy, row in rows.items():
            moved = "" if row["units"] is None else f"{row['units']:.1f}"
            figures = (moved, f"{row['equal_to_eager']:.5f}")
            table.add_row(mlp, weights, policy, *figures, f"{row['milliseconds']:.1f}")
    Console().print(table)
    if chosen.json:
        save(
            chosen.json,
            tokens=chosen.tokens,
            hidden=chosen.hidden,
            threads=torch.get_num_threads(),
            results=results,
        )


if __name__ == "__main__":
    main()
