"""Bytes and kernels of what vLLM would compile, on a GPU that is not here.

    python benchmarks/vllm_models.py --layers 8 --json results/vllm-models.json

For each model, number of tokens and cut, every policy in one run; needs vLLM (docs/vllm.md).
Exit status 1 where `plan` moves more than stock or `traffic` in any row.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from torch_materialize.jobs.explain import compare
from torch_materialize.models.published import CONFIGS, CUTS
from torch_materialize.results.base import write_json

POLICIES = ("stock", "traffic", "plan")


def measure(model: str, cut: str, tokens: int, layers: int | None, device: str) -> dict[str, Any]:
    found = compare(f"vllm:{model}:{cut}", POLICIES, device, tokens=tokens, layers=layers)
    row: dict[str, Any] = {"model": model, "cut": cut, "tokens": tokens, "layers": layers}
    row |= {"device": device, "unit_bytes": found.unit_bytes, "versions": dict(found.versions)}
    for policy in POLICIES:
        total = found.traffic(policy)
        row[policy] = {
            "bytes": total.bytes,
            "kernels": total.kernels,
            "other_kernels": total.other_kernels,
            "seconds": found.seconds[policy],
        }
    return row


def line(row: dict[str, Any]) -> str:
    stock = row["stock"]["bytes"]
    cells = [
        f"{row[p]['bytes'] / row['unit_bytes']:.2f} (x{row[p]['bytes'] / stock:.3f}), "
        f"{row[p]['kernels']}"
        for p in POLICIES
    ]
    return f"| {row['model']} | {row['cut']} | {row['tokens']} | {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", choices=list(CONFIGS))
    parser.add_argument("--cut", action="append", choices=CUTS)
    parser.add_argument("--tokens", action="append", type=int)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--device", default="h200")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    print("| model | cut | tokens | stock: units, kernels | traffic | plan |")
    print("|---|---|---|---|---|---|")
    for model in given.model or CONFIGS:
        for cut in given.cut or CUTS:
            for tokens in given.tokens or (1, 16, 1024, 8192):
                row = measure(model, cut, tokens, given.layers, given.device)
                rows.append(row)
                print(line(row), flush=True)
                if given.json:
                    write_json(
                        given.json, {"schema": "torch-materialize/vllm-models", "rows": rows}
                    )
    worse = [r for r in rows if r["plan"]["bytes"] > min(r[p]["bytes"] for p in POLICIES)]
    for row in worse:
        print("plan is not the least:", line(row), file=sys.stderr)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
