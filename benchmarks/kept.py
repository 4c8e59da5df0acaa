"""What forwards keep for their backwards and what both halves move, by who chooses what is kept.

Stock's choice, AOTAutograd's ``activation_memory_budget``, and ours: by default, at the same share,
and keeping no more than upstream's budget gave.  Upstream's choice is lowered as stock lowers it.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch._functorch import config as functorch_config

from torch_materialize.core.memory import peak_bytes
from torch_materialize.core.policy import parse
from torch_materialize.core.saving import kept_bytes
from torch_materialize.core.traffic import traffic
from torch_materialize.errors import MemoryBudgetError
from torch_materialize.inductor.offline.dry_run import dry_run
from torch_materialize.inductor.partition.kept import kept_by
from torch_materialize.inductor.read.at_hand import device_named
from torch_materialize.results.base import read_json, write_json
from torch_materialize.sweep.measure import captured
from torch_materialize.sweep.rows import Job, Settings

_FIGURES = ("kept", "bytes", "kernels", "peak")


def main(chosen: Any) -> int:
    """Adds rows to the file; models that it has are not measured again."""
    if chosen.json is None:
        raise SystemExit("kept needs --json FILE")
    torch.set_num_threads(1)
    start = {"torch": torch.__version__, "device": chosen.device, "budget": chosen.budget}
    data = read_json(chosen.json) if chosen.json.exists() else {**start, "models": []}
    for name in chosen.names:
        if name not in {row["name"] for row in data["models"]}:
            began = time.perf_counter()
            ways = _ways(Job(name, "", "training", "corpus"), chosen.device, chosen.budget)
            seconds = round(time.perf_counter() - began)
            data["models"].append({"name": name, "seconds": seconds, "ways": ways})
            write_json(chosen.json, data)
            sys.stdout.write(f"{_line(data['models'][-1])}\n")
            sys.stdout.flush()
    return 0


def _ways(job: Job, device: str, budget: float) -> dict[str, dict[str, int]]:
    ours = f"plan:memory={budget:g}"
    ways = _measured(job, device, {name: name for name in ("stock", "plan")})
    with contextlib.suppress(MemoryBudgetError):
        ways |= _measured(job, device, {ours: ours})
    with functorch_config.patch(activation_memory_budget=budget):
        # Whoever plans says what is kept; upstream decides it, and stock lowers it.
        ways |= _measured(job, device, {f"upstream at {budget:g}": "stock"}, traced_for="plan")
    least = ways[f"upstream at {budget:g}"]["kept"] / max(ways["stock"]["kept"], 1)
    if 0 < least < 1:
        policy = f"plan:memory={least:.6f}"
        # Upstream may repeat what we do not.
        with contextlib.suppress(MemoryBudgetError):
            ways |= _measured(job, device, {"plan, as much as upstream": policy})
    return ways


def _measured(
    job: Job, device: str, policies: Mapping[str, str], traced_for: str = ""
) -> dict[str, dict[str, int]]:
    """Of each way the sums over all graphs, and the highest peak."""
    traced = {way: parse(traced_for or policy) for way, policy in policies.items()}
    found = captured(job, Settings(device, tuple(map(str, traced.values()))))
    totals: dict[str, dict[str, int]] = {way: dict.fromkeys(_FIGURES, 0) for way in policies}
    for graphs in found:
        kept = kept_by({str(policy): graph for policy, graph in graphs.items()})
        for way, policy in policies.items():
            outcome = dry_run(graphs[traced[way]], parse(policy), device_named(device))
            moved = traffic(outcome.graph).times(graphs[traced[way]].calls)
            one = totals[way]
            one["bytes"] += moved.bytes
            one["kernels"] += moved.kernels
            one["kept"] += kept_bytes(kept, str(traced[way])) or 0
            one["peak"] = max(one["peak"], peak_bytes(outcome.dag, outcome.dag.homes()))
    return totals


def _line(row: Mapping[str, Any]) -> str:
    stock = row["ways"]["stock"]
    parts = [
        f"{way}: kept x{_share(one, stock, 'kept')}, moved x{_share(one, stock, 'bytes')}"
        for way, one in row["ways"].items()
        if way != "stock"
    ]
    return f"{row['name']}: {'; '.join(parts)} ({row['seconds']} s)"


def _share(one: Mapping[str, int], stock: Mapping[str, int], what: str) -> str:
    return f"{one[what] / stock[what]:.3f}" if stock[what] else "-"
