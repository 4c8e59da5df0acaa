"""Prints what `compare` recorded as one Markdown table, and keeps the totals as one JSON file.

python benchmarks/figures_table.py FOLDER --json results/compare-YYYY-MM-DD.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from torch_materialize.results.record import EXPLANATION


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path, help="write the totals of every record here")
    chosen = parser.parse_args()
    kept = []
    lines = ["| target | traced by | torch | policy | kernels | GB | units | of stock | dry run |"]
    lines.append("|" + "---|" * 9)
    for path in sorted(chosen.folder.glob("*.json")):
        data = EXPLANATION.to_json(EXPLANATION.load(path))
        kept.append({k: v for k, v in data.items() if k != "graphs"})
        base = data["totals"][data["policies"][0]]["bytes"]
        for policy in data["policies"]:
            total = data["totals"][policy]
            lines.append(
                f"| {data['target']} | {data['tracing']} | {data['versions']['torch']} | {policy} "
                f"| {total['fused_kernels']} | {total['bytes'] / 1e9:.2f} | {total['units']:.1f} "
                f"| x{total['bytes'] / base:.3f} | {total['seconds']:.1f} s |"
            )
    sys.stdout.write("\n".join(lines) + "\n")
    if chosen.json:
        chosen.json.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
