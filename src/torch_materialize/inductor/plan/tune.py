"""The policy `tune`: plan, its variants, traffic and stock, timed where they will run.

Every candidate is compiled for real and run on made-up inputs, interleaved with the rest;
stock twice in each round, which shows the noise.  What is kept is never slower than stock
beyond that noise, and it is remembered (:mod:`torch_materialize.results.tuned`), so that a graph is
timed once for each device and versions.

A choice is a plan file with what was measured; `plan` goes by it, too, given its folder.
It is not in Inductor's cache keys unless the policy names the folder: an artifact that a cache
serves holds a choice that was measured for the same graph, and the file gives the same one again.
"""

from __future__ import annotations

import datetime
import hashlib
import logging
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch._inductor import config

from ...core.limits import Limits
from ...core.paired import faster, interleaved, noise
from ...core.policy import Policy, parse
from ...errors import LeftToStockError, brief
from ...events import log, once, strict, surprise
from ...results import tuned as store
from ...results.plan_file import FOLDER_VARIABLE, Measured, PlanFile, folder_of
from ...versions import implementation, installed_versions
from ..fx.canonical import Canonical, canonical
from ..fx.decision import NESTED_REDUCTIONS, NO_CHANGE, Decision
from ..fx.post_grad import PostGrad
from ..lower.switched import is_off_by_default, switched
from ..lower.trial import trial
from ..read.at_hand import device_of, device_text
from .neutral_settings import decides
from .plan_files import checked, decision_of, nodes_of, without_findings
from .plan_key import plan_key
from .search import search
from .timed import clock, compiled, is_on_gpu, made_up, outside, sizes, why_not

__all__ = ["graph_key", "tuned", "variants"]

STOCK, AGAIN = "stock", "stock again"
_NESTED = "plan, nested reductions"

# Rounds of timing: a sign test needs some, and a graph of seconds should not take minutes.
_MOST_ROUNDS, _LEAST_ROUNDS, _WARM = 41, 11, 3
_SECONDS = 10.0
# A plan that is not to recompute what costs anything, and one that adds no kernel.
_DEAR = 8.0
_NO_LAUNCH = 1 << 60


@dataclass(frozen=True)
class _Chosen:
    name: str
    decision: Decision
    seconds: dict[str, float]
    noise: float


def tuned(graph: PostGrad, limits: Limits, policy: Policy) -> Decision | None:
    """The fastest decision for ``graph`` on its device, from memory or by timing it now.

    None where it cannot be timed: then it is to be planned.
    """
    reason = why_not(graph)
    if reason:
        log.info("tune: planned and not timed: %s", reason)
        return None
    form = canonical(graph.module)
    key, about = graph_key(graph, policy, form), _about(graph)
    place = plan_key(form, graph, policy, device_of(graph.inputs))
    known = store.recall(place, folder_of(policy))
    if known is not None and known.measured is not None and known.measured.key == key:
        decision = decision_of(known, form)
        if decision is not None:
            log.info("tune: %s: %s, as remembered", graph.described, known.measured.choice)
            return decision
    try:
        chosen = _timed(graph, dict(_candidates(graph, limits, policy)), policy.numerics)
    except Exception as error:  # noqa: BLE001 - made-up inputs are not what an operator expects
        once(
            f"tune:{brief(error)}",
            logging.WARNING,
            "tune: a graph cannot be run on made-up inputs and is planned instead: %s",
            brief(error),
        )
        return None
    _report(graph, chosen)
    measured = Measured(key, chosen.name, chosen.seconds, chosen.noise, about, time.time())
    _remember(graph, policy, (place, form), chosen.decision, measured)
    return chosen.decision


def variants(limits: Limits, policy: Policy) -> dict[str, tuple[Limits, Policy]]:
    """The searches whose outcomes are timed, by name."""
    plan = parse("plan", policy.settings)
    found = {
        "plan": (limits, plan),
        "plan, little recomputed": (
            replace(limits, balance=_DEAR * limits.balance, refusing_rates=None),
            plan,
        ),
        "plan, no more kernels": (replace(limits, launch_bytes=_NO_LAUNCH), plan),
    }
    if limits.rates is not None or limits.refusing_rates is not None:
        found["plan, fewest bytes"] = (replace(limits.only_bytes, refusing_rates=None), plan)
    if (by_time := limits.by_time) is not None:
        found["plan, least time"] = (by_time, plan)
    if policy.numerics == "stored":
        found["plan, rounded as stock"] = (limits, parse("plan", {"numerics": "stock"}))
    return found


def graph_key(graph: PostGrad, policy: Policy, form: Canonical) -> str:
    """Digest of all that the fastest choice depends on, as far as that is known."""
    digest = hashlib.sha256()
    for part in (
        policy.fingerprint(implementation()),
        *sorted(_machine(graph).items()),
        *sorted(_settings()),
        graph.is_inference,
        graph.is_backward,
        *(sizes(x) for x in graph.inputs),
        form.digest,
    ):
        digest.update(repr(part).encode() + b"\0")
    return digest.hexdigest()[:32]


def _candidates(graph: PostGrad, limits: Limits, policy: Policy) -> Iterator[tuple[str, Decision]]:
    """Stock, and every variant that is another decision than those before it."""
    yield STOCK, NO_CHANGE
    seen = {NO_CHANGE}
    ways: dict[str, Callable[[], Decision]] = {
        name: partial(_planned, graph, *how) for name, how in variants(limits, policy).items()
    }
    if _may_nest(graph):
        plan = parse("plan", policy.settings)
        ways[_NESTED] = partial(_planned, graph, limits, plan, frozenset({NESTED_REDUCTIONS}))
    if policy.numerics == "stored":
        ways["traffic"] = partial(_by_traffic, graph)
    for name, decide in ways.items():
        try:
            decision = decide()
        except LeftToStockError as error:
            log.warning("tune: without %s: %s", name, error)
            continue
        except Exception as error:  # noqa: BLE001 - one candidate less
            surprise(f"tune, {name}", error)
            continue
        if decision not in seen:
            seen.add(decision)
            yield name, decision


def _may_nest(graph: PostGrad) -> bool:
    """Whether upstream can make one kernel of a reduction of rows and one of groups in them.

    It does from torch 2.15 on, by itself; on 2.13 and 2.14 it can and does not.
    """
    return is_on_gpu(graph) and is_off_by_default(NESTED_REDUCTIONS)


def _planned(
    graph: PostGrad, limits: Limits, policy: Policy, settings: frozenset[str] = frozenset()
) -> Decision:
    with switched(settings):
        found = search(graph, limits, policy, certify=False)
    return replace(without_findings(found), settings=settings)


def _by_traffic(graph: PostGrad) -> Decision:
    """What the local rule materializes, as marks; its hooks stand while a graph is governed."""
    _, dag = trial(graph, policy=parse("traffic"))
    names = dag.nodes(dag.chosen())
    return Decision(store=names, marked=names)


def _timed(graph: PostGrad, candidates: dict[str, Decision], numerics: str) -> _Chosen:
    if len(candidates) == 1:
        return _Chosen(STOCK, NO_CHANGE, {}, 0.0)
    runs = dict(_running(graph, candidates, numerics))
    if len(runs) == 1:
        return _Chosen(STOCK, NO_CHANGE, {}, 0.0)
    with outside(graph):
        times = _rounds({**runs, AGAIN: runs[STOCK]})
    name = faster(times, STOCK, AGAIN)
    return _Chosen(
        name,
        candidates[name],
        {n: statistics.median(own) for n, own in times.items() if n != AGAIN},
        noise(times[STOCK], times[AGAIN]),
    )


def _running(
    graph: PostGrad, candidates: dict[str, Decision], numerics: str
) -> Iterator[tuple[str, Callable[[], float]]]:
    """The candidates that compile and run; without stock there is nothing to hold them against."""
    inputs = made_up(graph)
    for name, decision in candidates.items():
        try:
            run = clock(graph, compiled(graph, decision, numerics), inputs)
            with outside(graph):
                run()
        except Exception as error:
            if name == STOCK:
                raise
            if strict():
                raise
            once(
                f"tune:{name}:{brief(error)}",
                logging.WARNING,
                "tune: %s is left out, since it does not compile or run where stock does: %s",
                name,
                brief(error),
            )
            continue
        yield name, run


def _rounds(runs: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    for run in list(runs.values()) * _WARM:
        run()
    deadline = time.monotonic() + _SECONDS

    def enough(done: int) -> bool:
        return done >= _LEAST_ROUNDS and time.monotonic() > deadline

    rounds = list(interleaved(runs, _MOST_ROUNDS, enough))
    return {name: [one[name] for one in rounds] for name in runs}


def _report(graph: PostGrad, chosen: _Chosen) -> None:
    milliseconds = ", ".join(f"{n} {1e3 * s:.3f} ms" for n, s in chosen.seconds.items())
    log.info(
        "tune: %s: %s kept; %s (noise %.1f%%)",
        graph.described,
        chosen.name,
        milliseconds or "no plan differs from stock",
        100 * chosen.noise,
    )


def _remember(
    graph: PostGrad,
    policy: Policy,
    known_as: tuple[str, Canonical],
    decision: Decision,
    measured: Measured,
) -> None:
    key, form = known_as
    device = device_of(graph.inputs)
    plan = PlanFile(
        key=key,
        kind=graph.kind,
        nodes=len(form.nodes),
        device="unknown" if device is None else device.name,
        policy=str(policy),
        versions={**installed_versions(), "torch-materialize": implementation()},
        check=checked(graph, decision, policy),
        planned=decision.store is not None,
        decisions=nodes_of(form, decision),
        measured=measured,
        settings=tuple(sorted(decision.settings)),
    )
    named = folder_of(policy)
    try:
        store.remember(plan, named)
    except OSError as error:
        once(
            "tune:store",
            logging.WARNING,
            "tune: choices cannot be kept in %s and are made anew each time (%s); set %s to "
            "another folder",
            named or store.folder(),
            brief(error),
            store.FOLDER_VARIABLE if named is None else FOLDER_VARIABLE,
        )


def _about(graph: PostGrad) -> dict[str, str]:
    return {
        **_machine(graph),
        "graph": f"{graph.kind}, {graph.nodes} nodes",
        "day": datetime.date.today().isoformat(),
    }


def _machine(graph: PostGrad) -> dict[str, str]:
    versions = installed_versions()
    return {
        "device": device_text(graph.inputs),
        "torch": torch.__version__,
        "triton": versions["triton"],
        "torch-materialize": implementation(),
    }


def _settings() -> Iterator[tuple[str, str]]:
    """Inductor's settings that are plain values: passes and the like have no stable text."""
    for name, value in config.get_config_copy().items():
        if decides(name) and isinstance(value, bool | int | float | str | None):
            yield name, repr(value)
