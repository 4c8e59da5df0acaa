"""What each mechanism of the search is worth: models of the corpus planned without it.

    python benchmarks/run.py ablation --json FILE NAME...

Each graph is planned as it ships and once more without each mechanism.  Trial lowerings
are remembered from one search to the next, so that a search costs only those that no other made.
A search decides by counts alone, so that what is remembered does not change what it finds.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

from torch._inductor import config

from planned import models
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

_PLAN = parse("plan")


def _nothing(*_args: Any) -> None:
    return None


def _without(**changes: Any) -> Callable[[], Any]:
    return lambda: mock.patch.multiple(rounds.Rounds, **changes)


#: Mechanism -> what takes it out of a search.
MECHANISMS: dict[str, Callable[[], Any]] = {
    "traffic always tried": _without(_begin_locally=_nothing),
    "look further": _without(_look_further=_nothing),
    "relieve": _without(_relieve=_nothing),
    "start: everything inlined": _without(_everything_inlined=_nothing),
    "by bytes after time": _without(_go_on_by_bytes=_nothing),
}


def _limits(limits: Limits) -> dict[str, Limits]:
    """Other limits to search with: one balance in the place of fitted rates."""
    return {
        "rates: none": replace(limits, rates=None, refusing_rates=None),
        "rates: none, balance 0.1": replace(limits, rates=None, refusing_rates=None, balance=0.1),
    }


@contextlib.contextmanager
def _remembered(known: dict[Any, Any]) -> Iterator[None]:
    upstream = trials.trial

    def trial(graph: Any, decision: Any = None, *, numerics: str, policy: Any, **how: Any) -> Any:
        key = (decision, numerics, policy)
        if key not in known:
            known[key] = upstream(graph, decision, numerics=numerics, policy=policy, **how)
        return known[key]

    with mock.patch.object(trials, "trial", trial):
        yield


def _ablated(graph: Any, device: Any) -> dict[str, dict[str, float]]:
    """Mechanism taken out -> what the search found without it; "" for none."""
    found, known = {}, {}
    limits = limits_for(device)
    rates = limits.rates or limits.refusing_rates
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


def main(chosen: Any) -> int:
    """Adds rows to the file; models that it has are not planned again."""
    path, device = chosen.json, find_device(chosen.device)
    if path is None:
        raise SystemExit("ablation needs --json FILE")
    data = read_json(path) if path.exists() else {"rows": []}
    done = {(row["name"], row["mode"]) for row in data["rows"]}
    for graphs in models(chosen, done):
        for row, graph in graphs:
            data["rows"].append(row | {"found": _ablated(graph, device)})
            sys.stdout.write("{name} {mode} {index}: {nodes} nodes\n".format(**row))
            sys.stdout.flush()
        write_json(path, data)
    return 0
