"""What each mechanism of the search is worth: models of the corpus planned without it.

    python benchmarks/ablation.py --json FILE NAME...
    python benchmarks/ablation.py --table FILE...

Each graph is planned as it ships and once more without each mechanism.  Dry runs are remembered
from one search to the next, so that a search costs only the dry runs that no other made.  A search
decides by counts alone, so that what is remembered does not change what it finds.  In the table: a
mechanism's graphs that move other bytes without it, by at least 0.2%, and what all graphs move.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch._inductor import config

from torch_materialize.core.cost import seconds_of
from torch_materialize.core.devices import find as find_device
from torch_materialize.core.limits import Limits, limits_for
from torch_materialize.core.policy import parse
from torch_materialize.core.traffic import traffic
from torch_materialize.inductor.fx.rounding import emulation
from torch_materialize.inductor.lower.virtual_gpu import planned_device
from torch_materialize.inductor.offline.dry_run import hooks_for
from torch_materialize.inductor.plan import rounds, search, trials
from torch_materialize.results.base import read_json, write_json
from torch_materialize.sweep.measure import captured
from torch_materialize.sweep.rows import Job, Settings

_PLAN = parse("plan")
# Share of a graph's bytes from which on a mechanism counts as having gained them.
_GAIN = 0.002


def _nothing(*_args: Any) -> None:
    return None


def _without(**changes: Any) -> Callable[[], Any]:
    return lambda: mock.patch.multiple(rounds.Rounds, **changes)


#: Mechanism -> what takes it out of a search.
MECHANISMS: dict[str, Callable[[], Any]] = {
    "start: traffic": _without(_by_traffic=_nothing),
    "traffic always tried": _without(_begin_locally=_nothing),
    "start: everything inlined": _without(_everything_inlined=_nothing),
    "by bytes after time": _without(_go_on_by_bytes=_nothing),
}


def _limits(limits: Limits) -> dict[str, Limits]:
    """Other limits to search with: one balance in the place of fitted rates."""
    return {
        "rates: none": replace(limits, rates=None, doubts=None),
        "rates: none, balance 0.1": replace(limits, rates=None, doubts=None, balance=0.1),
    }


@contextlib.contextmanager
def _remembered(known: dict[Any, Any]) -> Iterator[None]:
    upstream = trials.trial

    def trial(graph: Any, decision: Any = None, *, numerics: str, policy: Any) -> Any:
        key = (decision, numerics, policy)
        if key not in known:
            known[key] = upstream(graph, decision, numerics=numerics, policy=policy)
        return known[key]

    with mock.patch.object(trials, "trial", trial):
        yield


def _ablated(graph: Any, device: Any) -> dict[str, dict[str, float]]:
    """Mechanism taken out -> what the search found without it; "" for none."""
    found, known = {}, {}
    limits = limits_for(device)
    rates = limits.rates or limits.doubts
    cut = search.shorten(graph)
    with (
        planned_device(device),
        config.patch(emulation(_PLAN)),
        hooks_for(_PLAN),
        mock.patch.object(search, "shorten", lambda _graph: cut),
        _remembered(known),
    ):

        def one(limits: Limits) -> dict[str, float]:
            result = search.search(graph, limits, _PLAN, certify=False)
            return {
                "bytes": traffic(result.graph).bytes,
                "stock": traffic(result.stock).bytes,
                "kernels": traffic(result.graph).kernels,
                "seconds": seconds_of(result.dag, rates) if rates else 0.0,
                "stock_seconds": seconds_of(result.stock_dag, rates) if rates else 0.0,
                "rounds": result.rounds,
            }

        found[""] = one(limits)
        for name, without in MECHANISMS.items():
            with without():
                found[name] = one(limits)
        for name, other in _limits(limits).items():
            found[name] = one(other)
    return found


def _measure(names: list[str], modes: list[str], device: str, path: Path) -> None:
    settings = Settings(device, ("plan",), ("inference", "forward", "backward"))
    data = read_json(path) if path.exists() else {"rows": []}
    done = {(row["name"], row["mode"]) for row in data["rows"]}
    torch.set_num_threads(1)
    for name in names:
        for mode in modes:
            if (name, mode) in done:
                continue
            for index, graphs in enumerate(captured(Job(name, "", mode, "corpus"), settings)):
                graph = next(iter(graphs.values()))
                if graph.nodes < settings.smallest_nodes:
                    continue
                row = {"name": name, "mode": mode, "index": index, "device": device}
                row |= {"nodes": graph.nodes, "found": _ablated(graph, find_device(device))}
                data["rows"].append(row)
                sys.stdout.write(f"{name} {mode} {index}: {graph.nodes} nodes\n")
                sys.stdout.flush()
            write_json(path, data)


def _table(paths: list[Path]) -> None:
    rows = [row for path in paths for row in read_json(path)["rows"]]
    whole = [row["found"][""] for row in rows]
    ratio = _geomean([one["bytes"] / one["stock"] for one in whole])
    sys.stdout.write(f"{len(rows)} graphs, x{ratio:.4f} of stock's bytes, ")
    sys.stdout.write(f"{sum(one['rounds'] for one in whole)} dry runs\n\n")
    sys.stdout.write("| without | geomean | dry runs | graphs that move more | that move less |\n")
    sys.stdout.write("|---|---|---|---|---|\n")
    for name in dict.fromkeys(name for row in rows for name in row["found"] if name):
        tried = [row for row in rows if name in row["found"]]
        ratio = _geomean([r["found"][name]["bytes"] / r["found"][name]["stock"] for r in tried])
        changes = {
            f"{r['name']} {r['mode']} {r['index']}": r["found"][name]["bytes"]
            / r["found"][""]["bytes"]
            for r in tried
        }
        more = [f"{k} x{v:.3f}" for k, v in changes.items() if v > 1 + _GAIN]
        less = [f"{k} x{v:.3f}" for k, v in changes.items() if v < 1 - _GAIN]
        rounds = sum(r["found"][name]["rounds"] for r in tried)
        sys.stdout.write(
            f"| {name} | {ratio:.4f} | {rounds} | {'; '.join(more)} | {'; '.join(less)} |\n"
        )


def _geomean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--mode", action="append", choices=["inference", "training"])
    parser.add_argument("--device", default="h200")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--table", action="store_true", help="NAMES are files of --json")
    given = parser.parse_args()
    if given.table:
        _table([Path(name) for name in given.names])
    else:
        _measure(given.names, given.mode or ["inference", "training"], given.device, given.json)


if __name__ == "__main__":
    main()
