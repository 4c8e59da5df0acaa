"""What the page's script is given: tensors and kernels as rows, compressed."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

from ..core.story import RULES
from ..results.explanation import ExplainedGraph, Explanation, Side
from ..results.headline import pin_of, short_source, type_text
from .why import why

__all__ = ["encoded", "payload"]


def encoded(explanation: Explanation) -> str:
    """:func:`payload`, compressed and as text that may stand in a page."""
    plain = json.dumps(payload(explanation), separators=(",", ":")).encode()
    return base64.b64encode(gzip.compress(plain, 6, mtime=0)).decode()


def payload(explanation: Explanation) -> dict[str, Any]:
    """All rows of the tables.  Kernels are known by their place in the launch order."""
    return {
        "policies": list(explanation.policies),
        "priced": explanation.policies.index(explanation.priced),
        "rules": dict(RULES),
        "graphs": [_graph(explanation, graph) for graph in explanation.graphs],
    }


def _graph(explanation: Explanation, graph: ExplainedGraph) -> dict[str, Any]:
    return {
        "kind": graph.kind,
        "tensors": _tensors(explanation, graph),
        "kernels": {policy: _kernels(graph, policy) for policy in graph.sides},
        "sources": {
            policy: dict(side.code.kernels)
            for policy, side in graph.sides.items()
            if side.code is not None
        },
    }


def _tensors(explanation: Explanation, graph: ExplainedGraph) -> list[dict[str, Any]]:
    stored, shares = graph.stored(), graph.saves.get(explanation.priced, {})
    sides = list(graph.sides.values())
    computers = [_places(side, side.computers) for side in sides]
    readers = [_places(side, side.readers) for side in sides]
    writers = [_writers(side) for side in sides]
    rows = []
    for one in graph.decisions:
        fact = graph.facts[one.node]
        rows.append(
            {
                "name": one.node,
                "op": fact.op,
                "module": fact.module,
                "layer": fact.layer,
                "source": short_source(fact.source),
                "type": type_text(fact),
                "bytes": fact.bytes,
                "stored": [int(one.node in nodes) for nodes in stored.values()],
                "computers": [found.get(one.node, []) for found in computers],
                "readers": [found.get(one.node, []) for found in readers],
                "writers": [found.get(one.node, []) for found in writers],
                "ifStored": one.stored_bytes,
                "ifInlined": one.inlined_bytes,
                "saves": shares.get(one.node),
                "alone": one.alone_saves,
                "peak": one.peak_change,
                "rounding": one.rounding,
                "rounded": one.rounded,
                "rules": [one.rules[policy] for policy in graph.sides],
                "pin": pin_of(graph, one, explanation.priced),
                "why": why(explanation, graph, one),
            }
        )
    return rows


def _places(side: Side, found: dict[str, list[str]]) -> dict[str, list[int]]:
    place = {kernel.name: i for i, kernel in enumerate(side.graph.kernels)}
    return {node: [place[name] for name in names] for node, names in found.items()}


def _writers(side: Side) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place, kernel in enumerate(side.graph.kernels):
        for name in kernel.writes:
            found.setdefault(side.label(name), []).append(place)
    return found


def _kernels(graph: ExplainedGraph, policy: str) -> list[dict[str, Any]]:
    side = graph.sides[policy]
    rows, fused = [], 0
    for kernel, family in zip(side.graph.kernels, graph.families(policy), strict=True):
        function = ""
        if kernel.fused:
            function, _ = side.source_of(fused)
            fused += 1
        rows.append(
            {
                "name": kernel.name,
                "family": family,
                "kind": kernel.kind,
                "reads": [[side.label(name), size] for name, size in kernel.reads.items()],
                "writes": [[side.label(name), size] for name, size in kernel.writes.items()],
                "computes": list(kernel.computes) if kernel.fused else [],
                "work": side.work.get(kernel.name, 0),
                "function": function,
            }
        )
    return rows
