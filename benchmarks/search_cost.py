"""What a search costs beside one lowering of the same graph: CPU seconds, side by side.

Both halves of a step are planned in one process, as in a compile; name one model for each run, or
what a search keeps of one model is at hand for the next.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch._inductor import config
from torch._inductor.graph import GraphLowering

from planned import models
from torch_materialize.core.devices import find
from torch_materialize.core.limits import limits_for
from torch_materialize.core.policy import STOCK, parse
from torch_materialize.core.traffic import traffic
from torch_materialize.inductor.fx.decision import NO_CHANGE
from torch_materialize.inductor.fx.rounding import emulation
from torch_materialize.inductor.lower.trial import lowered
from torch_materialize.inductor.lower.virtual_gpu import planned_device
from torch_materialize.inductor.offline.dry_run import hooks_for
from torch_materialize.inductor.plan.search import search
from torch_materialize.results.base import read_json, write_json

_PLAN = parse("plan")


def main(chosen: Any) -> int:
    """Adds rows of this commit to the file; models that it has of it are not searched again."""
    if chosen.json is None:
        raise SystemExit("search-cost needs --json FILE")
    path, commit = chosen.json, _commit()
    data = read_json(path) if path.exists() else {"torch": torch.__version__, "searches": []}
    here = [r for r in data["searches"] if (r["device"], r["commit"]) == (chosen.device, commit)]
    for graphs in models(chosen, {(row["name"], row["mode"]) for row in here}):
        for start, graph in graphs:
            row = start | {"commit": commit, **_costs(graph, chosen.device)}
            data["searches"].append(row)
            times = row["search_seconds"] / row["lowering_seconds"]
            where = "{name} {mode} {index}".format(**row)
            sys.stdout.write(f"{where}: x{times:.2f} of one lowering\n")
        write_json(path, data)
    return 0


def _costs(graph: Any, name: str) -> dict[str, Any]:
    device = find(name)
    limits = limits_for(device)
    with planned_device(device), config.patch(emulation(_PLAN)), hooks_for(_PLAN):
        _lower(graph)  # what is imported and remembered at the first time is not what is measured
        before, _ = _timed(lambda: _lower(graph))
        seconds, found = _timed(lambda: search(graph, limits, _PLAN, certify=False))
        after, _ = _timed(lambda: _lower(graph))
    return {
        "lowering_seconds": round((before + after) / 2, 3),
        "search_seconds": round(seconds, 3),
        "rounds": found.rounds,
        "stock": traffic(found.stock).bytes,
        "bytes": traffic(found.graph).bytes,
        "steps": list(_steps(found)),
    }


def _lower(graph: Any) -> None:
    """As stock lowers and schedules it, with upstream's own class."""
    with lowered(graph, NO_CHANGE, "", STOCK, GraphLowering):
        pass


def _steps(found: Any) -> Iterator[str]:
    return (str(step) for step in found.steps)


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def _commit() -> str:
    root = Path(__file__).parent
    command = ["git", "-C", str(root), "rev-parse", "--short=7", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
