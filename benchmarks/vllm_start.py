"""Seconds until a tiny engine of vLLM is ready, with stock and with plan, from nothing.

    python benchmarks/vllm_start.py --pairs 3 --json results/vllm-start-DAY.json

Cold starts of a Llama with random weights on a CPU, full graph, in turn (stock, plan, plan, stock,
...), an empty cache folder for each; needs vLLM and is for a machine that does nothing else: it
waits until the load falls below ``--load``, and gives up with status 3 where it does not.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from saving import save

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "with_vllm"))

from launch import launch
from models import make

WAIT = 300  # seconds for a machine to become quiet


def quiet(load: float) -> bool:
    """Whether the load of the last minute falls below ``load`` in time."""
    deadline = time.monotonic() + WAIT
    while os.getloadavg()[0] >= load:
        if time.monotonic() > deadline:
            return False
        time.sleep(5)
    return True


def start(model: Path, policy: str, load: float) -> dict[str, Any] | None:
    """One cold start; None where the machine is not quiet."""
    if not quiet(load):
        return None
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="vllm-start-") as cache:
        answer = launch(model, "whole", Path(cache), TORCH_MATERIALIZE=policy)
    lines = [x["args"] for x in answer["lines"] if x["format"].startswith("plan: %d nodes")]
    return {
        "policy": policy,
        "ready_seconds": round(answer["ready"], 2),
        "planning_seconds": round(sum(float(x[-1]) for x in lines), 2),
        "load_before": round(before, 2),
        "compiles": answer["counters"]["num_inductor_compiles"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--load", type=float, default=1.5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    pairs: list[dict[str, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory(prefix="vllm-start-") as folder:
        model = make("llama", Path(folder))
        for number in range(given.pairs):
            order = ("stock", "plan") if number % 2 == 0 else ("plan", "stock")
            pair: dict[str, dict[str, Any]] = {}
            for policy in order:
                found = start(model, policy, given.load)
                if found is None:
                    print(f"load {os.getloadavg()[0]:.1f}: too busy to time", file=sys.stderr)
                    return 3
                print(found, flush=True)
                pair[policy] = found
            pairs.append(pair)
            ratio = pair["plan"]["ready_seconds"] / pair["stock"]["ready_seconds"]
            print(f"pair {number + 1}: plan takes {ratio:.3f} of stock's time", flush=True)
    ratios = [p["plan"]["ready_seconds"] / p["stock"]["ready_seconds"] for p in pairs]
    print(f"median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")
    if given.json:
        save(given.json, pairs=pairs, median_ratio=statistics.median(ratios))
    return 0


if __name__ == "__main__":
    sys.exit(main())
