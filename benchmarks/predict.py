"""Puts what a dry run says of them beside times that were measured without: bytes, kernels, peak.

    python benchmarks/predict.py FILE

FILE is what `gpu.py` or `run.py` wrote.  The device that it was measured on need not be here, and
planning takes the time of no GPU.  The file is rewritten in place; rows that have predictions keep
them.  Planned is by this checkout, which should be the commit that the file names.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from paired.cases import cases
from paired.machine import commit
from paired.measure import predicted
from torch_materialize.core.devices import CPU, DEVICES, Device
from torch_materialize.results.base import read_json, write_json


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("file", type=Path)
    path: Path = parser.parse_args().file
    data = read_json(path)
    here = data["machine"]
    kind = "cuda" if "cuda" in here else "cpu"
    device = CPU if kind == "cpu" else _of_table(here["device"])
    if device is None:
        raise SystemExit(f"{path}: {here['device']} is not a device of our table")
    every = {(c.name, c.part, c.tokens): c for c in cases(kind)}
    for row in data["rows"]:
        case = every.get((row["name"], row["part"], row["tokens"]))
        if "ways" not in row or "predicted" in row or case is None:
            continue
        row.pop("not_predicted", None)
        row.update(predicted(case, device, here["cache_bytes"], row))
        sys.stdout.write(f"{case.label}: {row.get('not_predicted', 'predicted')}\n")
        sys.stdout.flush()
        data["predicted_by"] = commit()
        write_json(path, data)


def _of_table(title: str) -> Device | None:
    """The GPU of our table that calls itself so; a file does not say more of it."""
    return next((one for one in DEVICES.values() if title in (one.title, *one.titles)), None)


if __name__ == "__main__":
    main()
