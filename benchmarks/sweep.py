"""Every policy over the corpus: bytes of the fused kernels on an H200 that is not there.

    pip install transformers timm diffusers
    python benchmarks/sweep.py --json results/sweep-YYYY-MM-DD.json [NAME ...]

One line for each graph; graphs of fewer than 50 nodes (leftovers of graph breaks) are left out.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import time
import warnings
from pathlib import Path

from corpus.capture import CapturedGraph, capture
from corpus.registry import ENTRIES, Entry
from torch_materialize.core.devices import DEVICES
from torch_materialize.core.policy import POLICIES, parse
from torch_materialize.core.traffic import traffic
from torch_materialize.errors import brief
from torch_materialize.inductor.dry_run import dry_run
from torch_materialize.versions import installed_versions

_SMALLEST = 50


def measure(entry: Entry, captured: CapturedGraph) -> dict[str, object]:
    start = time.perf_counter()
    runs = {p: dry_run(captured.graph, parse(p), DEVICES["h200"]) for p in POLICIES}
    sums = {p: traffic(run.graph) for p, run in runs.items()}
    stock = sums["stock"].bytes
    return {
        "name": entry.name,
        "family": entry.family,
        "kind": captured.kind,
        "index": captured.index,
        "nodes": captured.graph.nodes,
        "stock_bytes": stock,
        "kernels": {p: total.kernels for p, total in sums.items()},
        "ratio": {p: round(total.bytes / stock, 5) for p, total in sums.items()},
        "bound_ratio": round((runs["plan"].bound or 0.0) / stock, 5),
        "seconds": round(time.perf_counter() - start, 2),
    }


def rows(names: list[str]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for entry in ENTRIES:
        # A training row's capture gives its backward with its forward.
        if entry.kind == "backward" or (names and entry.name not in names):
            continue
        try:
            graphs = capture(entry)
            for captured in graphs:
                if captured.graph.nodes >= _SMALLEST:
                    row = measure(entry, captured)
                    found.append(row)
                    sys.stdout.write(f"{_line(row)}\n")
                    sys.stdout.flush()
        except Exception as error:  # noqa: BLE001 - one model must not end the sweep
            sys.stdout.write(f"{entry.name} {entry.kind}: {brief(error)[:150]}\n")
    return found


def _line(row: dict[str, object]) -> str:
    ratio = row["ratio"]
    assert isinstance(ratio, dict)
    head = f"{row['name']:24} {row['kind']:9} {row['nodes']:5} nodes"
    ratios = f"traffic x{ratio['traffic']:.4f}  plan x{ratio['plan']:.4f}"
    return f"{head}  {ratios}  least x{row['bound_ratio']:.4f}  {row['seconds']} s"


def summary(found: list[dict[str, object]], policy: str) -> str:
    ratios = [row["ratio"][policy] for row in found]  # type: ignore[index]
    geomean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    worse = sum(ratio > 1.001 for ratio in ratios)
    return (
        f"{policy:8} geomean x{geomean:.4f}, best x{min(ratios):.4f}, worst x{max(ratios):.4f}, "
        f"worse than stock by more than 0.1%: {worse} of {len(ratios)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="models of the corpus; default: all")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    found = rows(chosen.names)
    if not found:
        raise SystemExit("no graph was captured: check the names against benchmarks/corpus")
    for policy in POLICIES:
        sys.stdout.write(summary(found, policy) + "\n")
    gaps = sorted(row["ratio"]["plan"] / row["bound_ratio"] - 1 for row in found)  # type: ignore
    sys.stdout.write(
        f"gap of plan to its bound on 9 graphs of 10: {gaps[int(0.9 * len(gaps))]:.2%}\n"
    )
    if chosen.json:
        record = {"versions": installed_versions(), "device": "h200", "graphs": found}
        chosen.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
