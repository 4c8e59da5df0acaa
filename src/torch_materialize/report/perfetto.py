"""A timeline of the kernels for ui.perfetto.dev, in the Chrome trace-event format.

The durations are modelled: bytes over the data sheet's bandwidth, or operations where those
take longer.  What Inductor does not fuse has no modelled time and is drawn as an instant.
"""

from __future__ import annotations

from typing import Any

from ..core.devices import named
from ..results.explanation import ExplainedGraph, Explanation, Side

__all__ = ["UNKNOWN_BANDWIDTH", "timeline"]

#: Where no bandwidth is stated: one byte a nanosecond, so that lengths can be compared.
UNKNOWN_BANDWIDTH = 1e9


def timeline(explanation: Explanation) -> dict[str, Any]:
    """The record as a trace: a process for each policy, a thread for each graph.

    Times are microseconds, as the format wants them.
    """
    events: list[dict[str, Any]] = []
    for process, policy in enumerate(explanation.policies, 1):
        events.append(_name("process_name", process, 0, f"{policy} (modelled)"))
        for thread, graph in enumerate(explanation.graphs, 1):
            if policy in graph.sides:
                name = f"graph {thread}: {graph.title}"
                events.append(_name("thread_name", process, thread, name))
                events += _launches(explanation, graph, policy, process, thread)
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "target": explanation.target,
            "device": explanation.device,
            "note": "durations are modelled from bytes, operations and the data sheet's bandwidth",
        },
    }


def _name(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}}


def _launches(
    explanation: Explanation, graph: ExplainedGraph, policy: str, process: int, thread: int
) -> list[dict[str, Any]]:
    side, now = graph.sides[policy], 0.0
    bandwidth = named(explanation.device).bandwidth or UNKNOWN_BANDWIDTH
    events: list[dict[str, Any]] = []
    moved = 0
    for kernel, family in zip(side.graph.kernels, graph.families(policy), strict=True):
        common = {"name": family, "pid": process, "tid": thread, "ts": round(now, 4)}
        arguments: dict[str, Any] = {
            "kernel": kernel.name,
            "kind": kernel.kind,
            "reads": _labelled(side, dict(kernel.reads)),
            "writes": _labelled(side, dict(kernel.writes)),
        }
        if not kernel.fused:
            events.append({**common, "ph": "i", "s": "t", "cat": kernel.kind, "args": arguments})
            continue
        work = side.work.get(kernel.name, 0)
        length = max(kernel.bytes, explanation.balance * work) / bandwidth * 1e6
        moved += kernel.bytes
        arguments |= {"bytes": kernel.bytes, "operations": work, "computes": list(kernel.computes)}
        events.append(
            {**common, "ph": "X", "dur": round(length, 4), "cat": "fused", "args": arguments}
        )
        now += length
        counter = {"ph": "C", "name": f"bytes moved, graph {thread}", "pid": process}
        events.append({**counter, "ts": round(now, 4), "args": {"bytes": moved}})
    return events


def _labelled(side: Side, sizes: dict[str, int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, size in sizes.items():
        label = side.label(name)
        found[label] = found.get(label, 0) + size
    return found
