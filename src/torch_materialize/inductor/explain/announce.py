"""What a real compile under a plan leaves behind: log lines, a trace entry, a record.

Three readers, each checked for before anything is made for it:

- the logger ``torch_materialize``: ``TORCH_LOGS=torch_materialize`` for a line a graph,
  ``+torch_materialize`` for the decisions worth most;
- structured traces (``TORCH_TRACE``), which tlparse shows as ``torch_materialize_plan``;
- the folder that ``TORCH_MATERIALIZE_RECORD`` names, which ``torch-materialize report`` joins.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch._logging import _internal as torch_logging

from ...core.policy import STOCK, Policy
from ...core.traffic import traffic
from ...events import count, detailed, log, once, strict
from ...results.explanation import Explanation
from ...results.headline import decision_rows, plural, sum_rows
from ...results.record import EXPLANATION, SUFFIX
from ...results.source_text import lines_of
from ...versions import installed_versions
from ..fx.post_grad import PostGrad
from ..plan.outcome import Found, Outcome
from ..read.at_hand import device_of
from .build import explained

__all__ = ["RECORD", "announce", "has_readers", "record_folder"]

#: The variable that names the folder for records.
RECORD = "TORCH_MATERIALIZE_RECORD"

_TOP = 10

# So that torch._logging.set_logs(modules={"materialize": ...}) knows us; TORCH_LOGS is read when
# torch is imported, before anybody could register, and takes our module's name.
if hasattr(torch_logging, "register_log"):
    torch_logging.register_log("materialize", "torch_materialize")


def record_folder() -> Path | None:
    """Where records are to be left; None where nobody wants them."""
    folder = os.environ.get(RECORD, "")
    return Path(folder) if folder else None


def has_readers() -> bool:
    """Whether somebody wants trial lowerings even of a graph that no plan changes."""
    tracing = getattr(torch_logging, "trace_log", None)
    return detailed() or record_folder() is not None or bool(getattr(tracing, "handlers", ()))


def announce(graph: PostGrad, policy: Policy, found: Found, balance: float) -> None:
    """Hands a graph's plan to whoever listens, before the graph is prepared for it.

    A failure here is logged once, and raised in strict mode; the plan is used all the same.
    """
    after, before = (traffic(one).times(graph.calls) for one in (found.graph, found.stock))
    count(
        acted=found.store is not None or bool(found.marked),
        moved=(after.bytes, after.kernels, before.bytes, before.kernels),
    )
    make = functools.cache(lambda: _explanation(graph, policy, found, balance))
    try:
        _log(graph, found, make)
        if hasattr(torch_logging, "trace_structured_artifact"):
            torch_logging.trace_structured_artifact(
                "torch_materialize_plan", "json", payload_fn=lambda: _summary(found, make())
            )
        folder = record_folder()
        if folder is not None:
            _record(folder, make())
    except Exception as error:
        if strict():
            raise
        once(
            "telling",
            logging.WARNING,
            "a plan is used, but could not be announced (log, trace or %s): %s: %s",
            RECORD,
            type(error).__name__,
            error,
        )


def _explanation(graph: PostGrad, policy: Policy, found: Found, balance: float) -> Explanation:
    start = time.perf_counter()
    name = str(policy)
    outcomes = {
        str(STOCK): Outcome(found.stock, found.stock_dag),
        name: Outcome(found.graph, found.dag, found.bound, found),
    }
    # With a bound, the whole graph was lowered.
    left_out = found.left_out if found.bound is None else 0
    device = device_of(graph.inputs)
    fitted = device.fitted if device is not None else ""
    graphs = dict.fromkeys(outcomes, graph)
    one = explained(graphs, outcomes, name, left_out=left_out, fitted=fitted)
    return Explanation(
        target="compiled program",
        device=_device(graph),
        policies=tuple(outcomes),
        priced=name,
        graphs=(one,),
        seconds={
            name: round(found.seconds, 3),
            "explain": round(time.perf_counter() - start, 3),
        },
        versions=installed_versions(),
        balance=balance,
        origin="compile",
        lines=lines_of((one,)),
    )


def _device(graph: PostGrad) -> str:
    """The short name of the device that a graph is compiled for; its own where we have none."""
    device = device_of(graph.inputs)
    if device is not None:
        return device.name
    return next(x.device.type for x in graph.inputs if _is_elsewhere(x))


def _is_elsewhere(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type != "cpu"


def _choice(found: Found) -> str:
    """Whose choice it is, and what is materialized besides: all, where it is a plan's."""
    if found.store is None and not found.marked:
        return "stock kept"
    more = f"{plural(len(found.marked), 'tensor')} materialized"
    return more if found.store is not None else f"stock's choice, and {more}"


def _log(graph: PostGrad, found: Found, make: Callable[[], Explanation]) -> None:
    if not log.isEnabledFor(logging.INFO):
        return
    before, after = traffic(found.stock), traffic(found.graph)
    bound = "not computed" if found.bound is None else f"{found.bound:.0f}"
    log.info(
        "plan: %s, of them %d in layers that repeat; %s: %d bytes in %d kernels (stock: %d "
        "in %d; certified least: %s), %d trial lowerings in %.2f s",
        graph.described,
        found.left_out,
        _choice(found),
        after.bytes,
        after.kernels,
        before.bytes,
        before.kernels,
        bound,
        found.rounds,
        found.seconds,
        # For programs that read the log: a sentence may change, ``record.planned`` does not.
        extra={
            "planned": {
                "nodes": graph.nodes,
                "calls": graph.calls,
                "bytes": after.bytes,
                "kernels": after.kernels,
                "stock_bytes": before.bytes,
                "stock_kernels": before.kernels,
                "trial_lowerings": found.rounds,
                "seconds": found.seconds,
            }
        },
    )
    for refusal in found.refused:
        log.info("plan: %s", refusal.sentence())
    if detailed():
        for row in decision_rows(make(), _TOP):
            log.debug(
                "plan: %s%s, %s at %s: stored by %s; saves %s against stock",
                row.name,
                f" and {row.alike} alike" if row.alike else "",
                row.type,
                row.where or "an unknown line",
                row.stored_by,
                row.saves,
            )
        for words, saves in sum_rows(make(), _TOP):
            log.debug("plan: %s: %s", words, saves)


def _summary(found: Found, explanation: Explanation) -> dict[str, Any]:
    """What a trace shows: totals, the tensors stored, the decisions worth most."""
    totals = {policy: explanation.traffic(policy) for policy in explanation.policies}
    return {
        "bytes": {policy: total.bytes for policy, total in totals.items()},
        "kernels": {policy: total.kernels for policy, total in totals.items()},
        "bound": found.bound,
        "dry_runs": found.rounds,
        "seconds": round(found.seconds, 3),
        "stored": sorted(found.marked),
        "rounded": sorted(found.rounded),
        "refused": [vars(refusal) for refusal in found.refused],
        "decisions": [vars(row) for row in decision_rows(explanation, _TOP)],
    }


def _record(folder: Path, explanation: Explanation) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # Names that sort by time and meet no other process's.
    kind = explanation.graphs[0].kind
    name = f"{time.time_ns():020d}-{os.getpid()}-{kind}{SUFFIX}"
    EXPLANATION.save(explanation, folder / name)
