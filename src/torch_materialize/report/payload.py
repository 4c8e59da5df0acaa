"""What the page's script is given: tensors, kernels and changes as rows, compressed."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

from ..core.devices import named
from ..core.story import RULES, TensorChoice
from ..results.changes import changes_of
from ..results.explanation import ExplainedGraph, Explanation, Side
from ..results.headline import pin_line, pin_of, short_source, type_text
from ..results.pairs import KernelPair, kernel_pairs
from .code import Names, Steps, difference, name_pointers
from .perfetto import UNKNOWN_BANDWIDTH
from .trace import Measured
from .why import why

__all__ = ["encoded", "payload"]


def encoded(explanation: Explanation, measured: Measured | None = None) -> str:
    """:func:`payload`, compressed and as text that may stand in a page."""
    plain = json.dumps(payload(explanation, measured), separators=(",", ":")).encode()
    return base64.b64encode(gzip.compress(plain, 6, mtime=0)).decode()


def payload(explanation: Explanation, measured: Measured | None = None) -> dict[str, Any]:
    """All rows of the page.  Kernels are known by their place in the launch order."""
    device = named(explanation.device)
    return {
        "target": explanation.target,
        "policies": list(explanation.policies),
        "priced": explanation.policies.index(explanation.priced),
        "prices": explanation.prices,
        "rules": dict(RULES),
        "unit": explanation.unit_bytes,
        "device": explanation.device,
        "title": device.title,
        # Bytes a second by the data sheet, 0 where that is not known.
        "bandwidth": device.bandwidth,
        "unknownBandwidth": UNKNOWN_BANDWIDTH,
        "balance": explanation.balance,
        "graphs": [_graph(explanation, graph) for graph in explanation.graphs],
        "changes": _changes(explanation),
        "measured": None if measured is None else vars(measured),
    }


def _changes(explanation: Explanation) -> dict[str, Any]:
    found = changes_of(explanation)
    return {
        "lines": [
            {
                "source": short_source(line.source),
                "text": line.text,
                "modules": [
                    {
                        "module": module.module,
                        "layer": module.layer,
                        "modules": module.modules,
                        "tensors": [
                            [one.place, one.node, one.saves, one.before, one.after]
                            for one in module.tensors
                        ],
                    }
                    for module in line.modules
                ],
            }
            for line in found.lines
        ],
        "otherwise": found.fused_otherwise,
        "rest": found.rest_text,
        "saved": found.saved,
        "shares": found.has_shares,
    }


def _graph(explanation: Explanation, graph: ExplainedGraph) -> dict[str, Any]:
    first, priced = explanation.policies[0], explanation.priced
    both = first in graph.sides and priced in graph.sides
    pairs, steps = _pairs(graph, first, priced) if both else ([], [])
    return {
        "kind": graph.title,
        "tensors": _tensors(explanation, graph),
        "kernels": {policy: _kernels(graph, policy) for policy in graph.sides},
        "sources": {
            policy: dict(side.code.kernels)
            for policy, side in graph.sides.items()
            if side.code is not None
        },
        "pairs": pairs,
        "steps": steps,
        "groups": [[list(g.nodes), g.stored_bytes, g.inlined_bytes] for g in graph.groups],
    }


def _pairs(graph: ExplainedGraph, one: str, other: str) -> tuple[list[list[Any]], list[Steps]]:
    """Rows of (places, places, changed, number of its steps or -1, family), and the steps.

    Layers that are alike call the same functions, whose difference is worked out once.
    """
    sides = graph.sides[one], graph.sides[other]
    numbers = [_fused_numbers(side) for side in sides]
    known: dict[tuple[tuple[str, ...], ...], int] = {}
    steps: list[Steps] = []
    rows: list[list[Any]] = []
    for pair in kernel_pairs(graph, 0, one, other):
        found = -1
        names = tuple(
            tuple(side.source_of(number[place])[0] for place in places)
            for side, number, places in zip(sides, numbers, (pair.before, pair.after), strict=True)
        )
        if pair.changed and all(names) and all(map(all, names)):
            if names not in known:
                known[names] = len(steps)
                steps.append(_difference(sides, numbers, pair))
            found = known[names]
        rows.append([list(pair.before), list(pair.after), int(pair.changed), found, pair.family])
    return rows, steps


def _difference(sides: tuple[Side, Side], numbers: list[dict[int, int]], pair: KernelPair) -> Steps:
    lines: list[list[str]] = []
    named: list[Names] = []
    for side, number, places in zip(sides, numbers, (pair.before, pair.after), strict=True):
        texts: list[str] = []
        names: Names = {}
        for place in places:
            _, source = side.source_of(number[place])
            texts.append(source)
            # Of several kernels the pointers of the first win: they only steer what is alike.
            names = {**name_pointers(source, side.arguments_of(number[place])), **names}
        lines.append("\n\n".join(texts).split("\n"))
        named.append(names)
    return difference(lines[0], lines[1], (named[0], named[1]))


def _fused_numbers(side: Side) -> dict[int, int]:
    """Place in the launch order -> place among the fused kernels."""
    fused = [place for place, kernel in enumerate(side.graph.kernels) if kernel.fused]
    return {place: number for number, place in enumerate(fused)}


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
                "flip": _flip(graph, one, explanation.priced),
                "why": why(explanation, graph, one),
            }
        )
    return rows


def _flip(graph: ExplainedGraph, one: TensorChoice, policy: str) -> str:
    """The pin that has a tensor decided otherwise than the policy does."""
    return pin_line(graph, one, one.node not in graph.sides[policy].stored) if one.open else ""


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
    numbers = _fused_numbers(side)
    rows = []
    works_for = zip(side.graph.kernels, graph.works_for(policy), strict=True)
    for place, (kernel, (family, module)) in enumerate(works_for):
        function, arguments = "", []
        if kernel.fused:
            function, source = side.source_of(numbers[place])
            names = name_pointers(source, side.arguments_of(numbers[place]))
            arguments = [[pointer, *tensors] for pointer, tensors in names.items()]
        rows.append(
            {
                "name": kernel.name,
                "family": family,
                "module": module,
                "kind": kernel.kind,
                "reads": [[side.label(name), size] for name, size in kernel.reads.items()],
                "writes": [[side.label(name), size] for name, size in kernel.writes.items()],
                "computes": list(kernel.computes) if kernel.fused else [],
                "work": side.work.get(kernel.name, 0),
                "function": function,
                "arguments": arguments,
            }
        )
    return rows
