"""Where the nodes of a graph stood in the program that was traced.

A program that cuts its graphs, as vLLM does at attention, cuts what was traced.  When a graph is
lowered, Inductor's passes have moved nodes next to their users (``reorder_for_locality``), and
passes of Inductor and of a program have made new nodes in place of old ones (patterns,
decompositions, vLLM's lowering of its own operators).  Whoever needs what crosses a cut needs the
order from before all of that.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["has_place", "note", "note_order", "program_order"]

_PLACE = "torch_materialize_place"

# Names of the traced program's operations -> the first and the last place of what they became.
_Operations = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class _Place:
    """Where a node stood; ``operations`` is one for all nodes of a graph."""

    number: int
    operations: _Operations


def note(graph: torch.fx.Graph) -> None:
    """Notes the order of a graph that no pass has changed yet, in the meta of its nodes."""
    operations: dict[str, tuple[int, int]] = {}
    for number, node in enumerate(graph.nodes):
        node.meta[_PLACE] = _Place(number, operations)
        name = _operation(node)
        if name is not None:
            first, _ = operations.get(name, (number, number))
            operations[name] = (first, number)


def has_place(node: torch.fx.Node) -> bool:
    """Whether a node stood in the program when its order was noted: no later pass made it."""
    return isinstance(node.meta.get(_PLACE), _Place)


def note_order(graph: torch.fx.Graph, names: Iterable[str]) -> None:
    """Notes an order that :func:`program_order` gave before, by the names of nodes."""
    place = {name: number for number, name in enumerate(names)}
    for node in graph.nodes:
        if node.name in place:
            node.meta[_PLACE] = _Place(place[node.name], {})


def program_order(graph: torch.fx.Graph) -> dict[torch.fx.Node, int]:
    """The rank of each node in the order of the program; without any note, of the graph.

    A node that was noted stands where it stood.  One that a later pass made stands where it does
    in the graph, among the nodes that no pass has moved; but what it was made of may have been
    moved before, so it stays with the other nodes of its operation, as far as upstream records
    which it was made, and never stands behind its users.  No node stands before its inputs.
    """
    nodes = list(graph.nodes)
    noted = {n: n.meta[_PLACE] for n in nodes if isinstance(n.meta.get(_PLACE), _Place)}
    operations: _Operations = next((place.operations for place in noted.values()), {})
    unmoved = _unmoved({node: place.number for node, place in noted.items()})
    latest = _latest(nodes, noted)
    where: dict[torch.fx.Node, float] = {}
    reached = -math.inf
    for node in nodes:
        if node in noted:
            at: float = noted[node].number
            reached = at + 0.5 if node in unmoved else reached
        else:
            first, last = operations.get(_operation(node) or "", (-math.inf, math.inf))
            at = min(max(reached, first), last, latest[node])
        where[node] = max([at, *(where[x] for x in node.all_input_nodes)])
    # Sorting is stable: what stands at one place keeps the order of the graph.
    return {node: rank for rank, node in enumerate(sorted(nodes, key=where.__getitem__))}


def _operation(node: torch.fx.Node) -> str | None:
    """The operation of the traced program that a node was made of, None where nothing says so."""
    sources: Any = node.meta.get("from_node")
    source = None
    while sources:
        source = sources[-1]
        sources = source.from_node
    return source.name if source else None


def _latest(
    nodes: list[torch.fx.Node], noted: Mapping[torch.fx.Node, _Place]
) -> dict[torch.fx.Node, float]:
    """The first place of those noted nodes that use a node, through nodes that are not."""
    latest: dict[torch.fx.Node, float] = {}
    for node in reversed(nodes):
        users = (noted[u].number if u in noted else latest[u] for u in node.users)
        latest[node] = min(users, default=math.inf)
    return latest


def _unmoved(places: Mapping[torch.fx.Node, int]) -> frozenset[torch.fx.Node]:
    """The most nodes, of those given in the order of a graph, that stand as they stood before.

    A longest rising subsequence, by patience sorting.
    """
    lowest: list[int] = []  # place that ends the best subsequence of each length
    ends: list[torch.fx.Node] = []
    before: dict[torch.fx.Node, torch.fx.Node | None] = {}
    for node, place in places.items():
        length = bisect_left(lowest, place)
        before[node] = ends[length - 1] if length else None
        lowest[length : length + 1] = [place]
        ends[length : length + 1] = [node]
    return frozenset(_chain(ends[-1] if ends else None, before))


def _chain(
    node: torch.fx.Node | None, before: Mapping[torch.fx.Node, torch.fx.Node | None]
) -> Iterable[torch.fx.Node]:
    while node is not None:
        yield node
        node = before[node]
