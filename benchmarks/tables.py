"""Makes the tables (Markdown) and plots (SVG) of the documents from result files.

    python benchmarks/tables.py results/bench-*.json
    python benchmarks/tables.py results/bench-cpu-*.json --plots docs/plots   # needs matplotlib

Every figure is one that `run.py` or `gpu.py` measured; what was not measured has no cell.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch_materialize.results.base import read_json

_STOCK, _AGAIN = "stock", "stock again"


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--plots", type=Path, help="a folder for one SVG for each file and part")
    chosen = parser.parse_args()
    for path in chosen.files:
        data = read_json(path)
        sys.stdout.write("\n".join(table(path.name, data)) + "\n\n")
        if chosen.plots:
            for name in plots(path.stem, data, chosen.plots):
                sys.stdout.write(f"plot written to {name}\n")


def table(name: str, data: Mapping[str, Any]) -> Iterator[str]:
    """One file as lines of Markdown, what failed or was not reached included."""
    here, versions = data["machine"], data["versions"]
    yield (
        f"`{name}`, {data['date']}: {here['device']}, {here['threads']} threads, load "
        f"{here['load'][0]:.1f}, torch {versions['torch']}, Triton {versions['triton']}, commit "
        f"{here['commit']}, {data.get('clock', 'wall')} clock."
    )
    yield ""
    rows = measured(data)
    ways = _ways(rows)
    heading = ["case", "stock ms", *ways, "noise", "MB stock / plan", "of copy", "peak MB"]
    yield line(heading)
    yield "|" + "---|" * len(heading)
    for row in rows:
        yield line(cells(row, ways))
    for row in data.get("rows", ()):
        if "error" in row:
            yield f"\n{_title(row)} failed: {row['error']}"
        if "withdrawn" in row:
            yield f"\n{_title(row)} is withdrawn: {row['withdrawn']}"
    if data.get("not_reached"):
        yield f"\nNot reached in time: {', '.join(data['not_reached'])}."


def measured(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows of a file that say something: they have times, and were not withdrawn later."""
    return [row for row in data.get("rows", ()) if "ways" in row and "withdrawn" not in row]


def _ways(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    found = dict.fromkeys(way for row in rows for way in row["ways"])
    return [way for way in found if way not in (_STOCK, _AGAIN)]


def _title(row: Mapping[str, Any]) -> str:
    tokens = f", {row['tokens']} tokens" if row["tokens"] else ""
    return f"{row['name']}{tokens}, {row['part']}"


def cells(row: Mapping[str, Any], ways: Sequence[str]) -> list[str]:
    """One row: the case, stock's time, each way's share of it, and the rest of the columns."""
    said = row.get("predicted", {})
    again = row["ways"].get(_AGAIN, {}).get("of_stock")
    noise = f"{again['low']:.2f} to {again['high']:.2f}" if again else ""
    both = [said[p] for p in (_STOCK, "plan") if p in said]
    moved = " / ".join(f"{one['bytes'] / 1e6:.1f}" for one in both)
    speeds = [one["achieved_bandwidth"] for one in both if "achieved_bandwidth" in one]
    shares = " / ".join(f"{speed / row['copy_bandwidth']:.2f}" for speed in speeds)
    return [
        f"{_title(row)} ({row['note']})",
        f"{1e3 * row['ways'][_STOCK]['seconds']:.3f}",
        *(_ratio(row["ways"].get(way)) for way in ways),
        noise,
        moved,
        shares,
        _peaks(row, both),
    ]


def _ratio(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    ratio = found["of_stock"]
    return f"x{ratio['median']:.3f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def _peaks(row: Mapping[str, Any], both: Sequence[Mapping[str, Any]]) -> str:
    """Measured where a GPU measures it, the planner's estimate elsewhere (marked with ~)."""
    ways = [row["ways"][p] for p in (_STOCK, "plan") if p in row["ways"]]
    if all("max_memory_allocated" in one for one in ways):
        return " / ".join(f"{one['max_memory_allocated'] / 1e6:.1f}" for one in ways)
    return " / ".join(f"~{one['peak_estimate'] / 1e6:.1f}" for one in both)


def line(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def plots(stem: str, data: Mapping[str, Any], folder: Path) -> Iterator[Path]:
    """One SVG for each part: time of each way against stock, with its interval."""
    try:
        import matplotlib
    except ImportError as error:
        raise SystemExit("--plots needs matplotlib (pip install matplotlib)") from error
    matplotlib.use("svg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    for part in ("fused", "whole"):
        rows = [row for row in measured(data) if row["part"] == part]
        if not rows:
            continue
        figure, axes = pyplot.subplots(figsize=(8, 1 + 0.5 * len(rows)), layout="constrained")
        for number, way in enumerate([w for w in (_AGAIN, *_ways(rows)) if w != "eager"]):
            seen = [(y, r["ways"][way]["of_stock"]) for y, r in enumerate(rows) if way in r["ways"]]
            middle = [one["median"] for _, one in seen]
            spread = [
                [max(one["median"] - one["low"], 0) for _, one in seen],
                [max(one["high"] - one["median"], 0) for _, one in seen],
            ]
            places = [y + 0.15 * number for y, _ in seen]
            axes.errorbar(middle, places, xerr=spread, fmt="o", label=way, capsize=2)
        axes.axvline(1.0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(rows)), [_title(row) for row in rows])
        axes.invert_yaxis()
        axes.set_xlabel("time, of stock's in the same round (median, 95%)")
        axes.legend()
        path = folder / f"{stem}-{part}.svg"
        figure.savefig(path)
        pyplot.close(figure)
        yield path


if __name__ == "__main__":
    main()
