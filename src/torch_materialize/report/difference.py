"""What differs between two explanations, or between two policies of one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from ..results.explanation import ExplainedGraph, Explanation
from ..results.headline import families, headline, short_source, size_text, type_text
from .tables import figures, plain_table, say, show, words

__all__ = ["Changed", "changed", "print_difference"]


@dataclass(frozen=True)
class Changed:
    """One tensor that the two sides decide otherwise, or that only one of them has.

    ``one`` and ``other`` are ``stored``, ``inlined`` or ``-`` for a side without it.
    """

    name: str
    type: str
    bytes: int
    where: str
    one: str
    other: str


def changed(a: Explanation, b: Explanation) -> list[Changed]:
    """Tensors decided otherwise, largest first.

    Tensors are the same where their graph's place and their FX node, operator and type agree:
    another commit of a model may number its nodes otherwise, and those are then listed.
    """
    found = []
    places = max(len(a.graphs), len(b.graphs))
    for place in range(places):
        one, other = _states(a, place), _states(b, place)
        for key in {**one, **other}:
            states = one.get(key, ("-", None)), other.get(key, ("-", None))
            if states[0][0] != states[1][0]:
                graph = states[0][1] or states[1][1]
                assert graph is not None
                fact = graph.facts[key[0]]
                found.append(
                    Changed(
                        fact.name,
                        type_text(fact),
                        fact.bytes,
                        short_source(fact.source, 1),
                        states[0][0],
                        states[1][0],
                    )
                )
    return sorted(found, key=lambda row: (-row.bytes, row.name))


_Key = tuple[str, str, str]


def _states(explanation: Explanation, place: int) -> dict[_Key, tuple[str, ExplainedGraph | None]]:
    if place >= len(explanation.graphs):
        return {}
    graph = explanation.graphs[place]
    stored = graph.sides[explanation.priced].stored
    return {
        (one.node, graph.facts[one.node].op, type_text(graph.facts[one.node])): (
            "stored" if one.node in stored else "inlined",
            graph,
        )
        for one in graph.decisions
    }


def print_difference(
    a: Explanation, b: Explanation, names: tuple[str, str], console: Console, top: int = 20
) -> None:
    """Prints totals, families and tensors of two sides beside each other."""
    show(console, _totals(a, b, names))
    show(console, _families(a, b, names, top))
    rows = changed(a, b)
    if not rows:
        say(console, "\nBoth sides store the same tensors.")
        return
    table = plain_table(f"Tensors decided otherwise: {len(rows)}")
    words(table, "tensor", "type")
    figures(table, "size")
    words(table, *names, "where")
    for row in rows[:top]:
        table.add_row(row.name, row.type, size_text(row.bytes), row.one, row.other, row.where)
    show(console, table)


def _totals(a: Explanation, b: Explanation, names: tuple[str, str]) -> Table:
    table = plain_table("Fused kernels")
    words(table, "", "policy", "device", "torch")
    figures(table, "kernels", "moved", "least", f"of {names[0]}")
    base = a.traffic(a.priced).bytes
    for name, side in zip(names, (a, b), strict=True):
        total, bound = side.traffic(side.priced), headline(side).bound
        table.add_row(
            name,
            side.priced,
            side.device,
            side.versions.get("torch", "-"),
            str(total.kernels),
            size_text(total.bytes),
            "-" if bound is None else size_text(round(bound)),
            f"x{total.bytes / base:.3f}" if base else "-",
        )
    return table


def _families(a: Explanation, b: Explanation, names: tuple[str, str], top: int) -> Table:
    table = plain_table("Moved by kernel family")
    words(table, "family")
    figures(table, *names, "change")
    for family, one, other in list(_family_rows(a, b))[:top]:
        sign = "+" if other > one else "-" if other < one else ""
        change = f"{sign}{size_text(abs(other - one))}" if sign else "same"
        table.add_row(family, size_text(one), size_text(other), change)
    return table


def _family_rows(a: Explanation, b: Explanation) -> Iterator[tuple[str, int, int]]:
    one = {name: row[a.priced] for name, row in families(a).items()}
    other = {name: row[b.priced] for name, row in families(b).items()}
    both = {**one, **other}
    for name in sorted(both, key=lambda n: (-abs(one.get(n, 0) - other.get(n, 0)), n)):
        yield name, one.get(name, 0), other.get(name, 0)
