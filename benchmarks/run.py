"""Times stock, traffic, plan, eager and piecewise compiles of many models, paired in one run.

    python benchmarks/run.py --device cpu --json results/bench-cpu-YYYY-MM-DD.json
    python benchmarks/run.py --list
    python benchmarks/run.py "vllm-style decoder" --part fused --way plan --way tune

``fused`` times the kernels that Inductor fuses and writes itself, with matmuls, convolutions and
attention replaced by a stand-in (paired/opaque.py); ``whole`` times everything.  All ways of one
case run interleaved in one process; stock is timed twice, and what lies between the two is noise.
The file is rewritten after every case, so that a run that is cut short leaves what it has.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from paired.cases import TOKENS, Case, cases
from paired.machine import describe
from paired.measure import EAGER, Effort, measure
from paired.opaque import Spent
from paired.pages import keep_pages
from paired.ways import WAYS, beside_stock
from saving import save


def main() -> None:
    chosen = _arguments()
    console = Console()
    logging.getLogger("torch_materialize").addHandler(logging.StreamHandler())
    warnings.filterwarnings("ignore", message="dynamo_pgo")
    wanted = list(select(chosen))
    if chosen.list:
        for case in wanted:
            sys.stdout.write(f"{case.label} ({case.note})\n")
        return
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    if chosen.clock == "processor":
        if torch.get_num_threads() != 1 or chosen.device != "cpu":
            raise SystemExit("--clock processor needs --device cpu and --threads 1")
        Spent.clock = staticmethod(time.thread_time)
    kept = chosen.device == "cpu" and not chosen.fresh_pages and keep_pages()
    effort = Effort(chosen.rounds, min(5, chosen.rounds), chosen.case_seconds)
    ways = tuple(chosen.way or WAYS)
    run(
        wanted,
        ways,
        chosen.device,
        effort,
        chosen.seconds,
        chosen.json,
        clock=chosen.clock,
        pages_kept=kept,
    )
    console.print("done")


def _arguments() -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("names", nargs="*", help="cases whose name begins so; default: all")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--part", choices=("fused", "whole"), help="default: both")
    parser.add_argument("--tokens", type=int, action="append", help=f"default: {TOKENS}")
    parser.add_argument("--way", action="append", help=f"default: {', '.join(WAYS)}")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--case-seconds", type=float, default=20.0, help="of timing, for a case")
    parser.add_argument("--seconds", type=float, default=3600.0, help="for the whole run")
    parser.add_argument("--threads", type=int, help="of a CPU; default: torch's own choice")
    parser.add_argument(
        "--clock", choices=("wall", "processor"), default="wall", help="see paired/opaque.py"
    )
    parser.add_argument(
        "--fresh-pages", action="store_true", help="do not keep freed memory, see paired/pages.py"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--list", action="store_true")
    return parser.parse_args()


def select(chosen: argparse.Namespace) -> list[Case]:
    every = cases(chosen.device, tuple(chosen.tokens or TOKENS))
    return [
        case
        for case in every
        if (not chosen.part or case.part == chosen.part)
        and (not chosen.names or any(case.name.startswith(name) for name in chosen.names))
    ]


class Kept:
    """Rows as they are made: shown, and always on disk."""

    def __init__(self, path: Path | None, device: str, ways: tuple[str, ...], labels: list[str]):
        self.rows: list[dict[str, Any]] = []
        self._path = path
        self._here = describe(device)
        self._ways = ways
        self._left = labels

    def add(self, label: str, row: dict[str, Any], **more: Any) -> None:
        """One more row, of the case ``label``; ``more`` goes into the file beside the rows."""
        self.rows.append(row)
        self._left.remove(label)
        show(label, row)
        if self._path is not None:
            figures = {"machine": self._here, "ways": self._ways, "rows": self.rows}
            save(self._path, **figures, not_reached=self._left, **more)


def run(
    wanted: list[Case],
    ways: tuple[str, ...],
    device: str,
    effort: Effort,
    seconds: float,
    path: Path | None,
    **more: Any,
) -> list[dict[str, Any]]:
    """Measures cases until there is no time left; the rows so far are always on disk."""
    ways = beside_stock(ways)
    deadline = time.monotonic() + seconds
    kept = Kept(path, device, ways, [case.label for case in wanted])
    for case in wanted:
        if time.monotonic() > deadline:
            break
        start = time.monotonic()
        try:
            row = measure(case, ways, device, effort)
        except Exception as error:  # noqa: BLE001 - the other cases are worth having
            row = {**case.about, "error": f"{type(error).__name__}: {error}"}
        row["took"] = round(time.monotonic() - start, 1)
        kept.add(case.label, row, **more)
    return kept.rows


def show(label: str, row: dict[str, Any]) -> None:
    """One case as a table."""
    took = f", {row['took']:.0f} s" if "took" in row else ""
    table = Table(title=f"{label} ({row['note']}){took}", title_justify="left")
    for heading in ("way", "ms", "of stock", "interval", "kernels", "MB", "GB/s", "of copy"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for way, found in row.get("ways", {}).items():
        ratio = found["of_stock"]
        said = row.get("predicted", {}).get(way, {})
        speed = said.get("achieved_bandwidth")
        table.add_row(
            way,
            f"{1e3 * found['seconds']:.3f}",
            f"x{ratio['median']:.3f}",
            f"{ratio['low']:.3f} to {ratio['high']:.3f}",
            str(said.get("kernels", "")),
            f"{said['bytes'] / 1e6:.1f}" if said else "",
            f"{speed / 1e9:.1f}" if speed else "",
            f"{speed / row['copy_bandwidth']:.2f}" if speed else "",
        )
    Console().print(table)
    for key in ("error", "not_predicted", "missing"):
        if row.get(key):
            sys.stdout.write(f"{key}: {row[key]}\n")


__all__ = ["EAGER", "Kept", "run", "select"]

if __name__ == "__main__":
    main()
