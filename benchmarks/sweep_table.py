"""Adds up sweep files by torch version and kind of graph, as one Markdown table.

    python benchmarks/sweep_table.py results/sweep-*-2026-11-26.json

What several files have of one torch counts once, as in the last of them that was named.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tables import line
from torch_materialize.sweep.file import SWEEP
from torch_materialize.sweep.rows import GraphRow
from torch_materialize.sweep.run import Sweep
from torch_materialize.sweep.spec import KINDS

_SMALL = 2.0  # percent above the bound


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("files", nargs="+", type=Path)
    sweeps = [SWEEP.load(path) for path in parser.parse_args().files]
    headings = ["torch", "graphs", "policy", "geomean", "best", "worst", "worse than stock"]
    lines = [line([*headings, f"gap at most {_SMALL:.0f}%"]), "|" + "---|" * 8]
    for torch in sorted({_torch(sweep) for sweep in sweeps}):
        all_of_it = _merged([sweep for sweep in sweeps if _torch(sweep) == torch])
        for name, kinds in {**KINDS, "all": sum(KINDS.values(), ())}.items():
            some = tuple(row for row in all_of_it.graphs if row.kind in kinds)
            lines += _rows(torch, f"{name}, {len(some)}", replace(all_of_it, graphs=some))
    sys.stdout.write("\n".join(lines) + "\n")


def _torch(sweep: Sweep) -> str:
    return sweep.versions["torch"].partition("+")[0]


def _merged(sweeps: Sequence[Sweep]) -> Sweep:
    rows = {(r.name, r.kind, r.index): r for sweep in sweeps for r in sweep.graphs}
    return replace(sweeps[0], graphs=tuple(rows.values()))


def _rows(torch: str, graphs: str, sweep: Sweep) -> Iterator[str]:
    for policy in sweep.settings.policies[1:]:
        found = sweep.summary(policy)
        if found is None:
            continue
        ratios = [f"x{x:.3f}" for x in (found.geomean, found.best, found.worst)]
        yield line([torch, graphs, policy, *ratios, str(found.worse), _gaps(sweep.graphs, policy)])
        torch = graphs = ""


def _gaps(rows: Sequence[GraphRow], policy: str) -> str:
    gaps = [gap for row in rows if (gap := row.gap_percent(policy)) is not None]
    small = sum(gap <= _SMALL for gap in gaps)
    return f"on {small} of {len(gaps)} ({small / len(gaps):.1%})" if gaps else ""


if __name__ == "__main__":
    main()
