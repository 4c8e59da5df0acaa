"""What planning adds to one lowering of the same graph: CPU seconds, side by side.

The graph is lowered and scheduled as in a compile, by stock and under `plan`: there it is searched,
or found to have nothing to gain, and a trial lowering that may ship is taken over.  Both halves of
a step are planned in one process, as in a compile; name one model for each run, or what a search
keeps of one model is at hand for the next.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch._inductor import config
from torch._inductor.graph import GraphLowering

from planned import models
from torch_materialize.core.devices import find
from torch_materialize.core.policy import STOCK, Policy, parse
from torch_materialize.core.traffic import traffic
from torch_materialize.inductor.fx.decision import NO_CHANGE, prepare
from torch_materialize.inductor.fx.policy_mark import POLICY_KEY
from torch_materialize.inductor.fx.post_grad import ungoverned_copy
from torch_materialize.inductor.fx.rounding import emulation
from torch_materialize.inductor.hooks import graph_lowering
from torch_materialize.inductor.lower.handover import Handover
from torch_materialize.inductor.lower.trial import run_lowering
from torch_materialize.inductor.lower.virtual_gpu import planned_device
from torch_materialize.inductor.offline.dry_run import hooks_for
from torch_materialize.inductor.read.kernels import read_scheduled
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
            more = row["planned_seconds"] / row["lowering_seconds"] - 1
            where = "{name} {mode} {index}".format(**row)
            sys.stdout.write(f"{where}: x{more:.2f} of one lowering\n")
        write_json(path, data)
    return 0


def _costs(graph: Any, name: str) -> dict[str, Any]:
    device = find(name)
    with planned_device(device), config.patch(emulation(_PLAN)), hooks_for(_PLAN):
        _lowered(graph)  # what is imported and remembered at the first time is not what is measured
        before, stock = _timed(lambda: _lowered(graph))
        with _noted("search") as searches, _noted("take", Handover) as taken:
            seconds, ours = _timed(lambda: _lowered(graph, _PLAN))
        after, _ = _timed(lambda: _lowered(graph))
    return {
        "lowering_seconds": round((before + after) / 2, 3),
        "planned_seconds": round(seconds, 3),
        "taken_over": any(taken),
        "rounds": sum(found.rounds for found in searches),
        "stock": stock,
        "bytes": ours,
        "steps": [str(step) for found in searches for step in found.steps],
    }


def _lowered(graph: Any, policy: Policy = STOCK) -> int:
    """Lowers and schedules a graph as a compile does; the bytes that its kernels move."""
    module = ungoverned_copy(graph.module)
    if policy.is_stock:
        prepare(module, NO_CHANGE, "")
    else:
        module.meta[POLICY_KEY] = policy
    with run_lowering(replace(graph, module=module), GraphLowering) as lowering:
        lowering._update_scheduler()
        return traffic(read_scheduled()).bytes


@contextlib.contextmanager
def _noted(name: str, owner: Any = graph_lowering) -> Iterator[list[Any]]:
    """Inside the block what a function of ours returns is noted."""
    found: list[Any] = []
    upstream = getattr(owner, name)

    def noted(*args: Any, **how: Any) -> Any:
        found.append(upstream(*args, **how))
        return found[-1]

    with mock.patch.object(owner, name, noted):
        yield found


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def _commit() -> str:
    root = Path(__file__).parent
    command = ["git", "-C", str(root), "rev-parse", "--short=7", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
