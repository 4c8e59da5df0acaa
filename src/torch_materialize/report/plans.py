"""Plan files for the terminal: what they come to, what differs, what a model moves more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ..results.headline import plural, short_source, size_text
from ..results.plan_changes import Changed
from ..results.plan_claims import GraphClaim, Growth
from ..results.plan_file import PlanFile
from .tables import figures, plain_table, say, show, words

__all__ = ["print_changes", "print_growths", "print_planned"]


def print_planned(
    plans: Sequence[PlanFile], claims: Sequence[GraphClaim], console: Console
) -> None:
    """Prints a row for each plan; ``claims`` has the graph of each."""
    table = plain_table("Plans")
    words(table, "graph", "key")
    figures(table, "nodes", "stock", "plan", "of stock", "kernels", "decided")
    for plan, claim in zip(plans, claims, strict=True):
        if plan.stock is None or plan.plan is None:
            continue
        share = plan.plan.bytes / plan.stock.bytes if plan.stock.bytes else 1.0
        table.add_row(
            claim.title,
            plan.key[:8],
            str(plan.nodes),
            size_text(plan.stock.bytes),
            size_text(plan.plan.bytes),
            f"x{share:.3f}",
            f"{plan.stock.kernels} > {plan.plan.kernels}",
            plural(len(plan.decisions), "node") if plan.decisions else "as stock",
        )
    show(console, table)


def print_changes(changes: Sequence[Changed], console: Console) -> None:
    """Prints a row for each line of the model that two plans decide otherwise."""
    if not changes:
        say(console, "The plans decide alike.")
        return
    table = plain_table(f"Decided otherwise: {plural(len(changes), 'line')}")
    words(table, "line", "value", "A", "B", "graph")
    for one in changes:
        place = short_source(one.source) if one.source else "the whole graph"
        table.add_row(place, one.value, one.before, one.after, one.graph)
    show(console, table)


def print_growths(grown: Sequence[Growth], target: str, folder: Path, console: Console) -> None:
    """Prints which graphs move more than was claimed, and the lines that do."""
    if not grown:
        say(console, f"{target} moves no more bytes than {folder} claims.")
        return
    for one in grown:
        name = f"{one.graph.title} {one.graph.index + 1}" if one.graph.index else one.graph.title
        claim = size_text(one.claimed) if one.claimed else "none: it is new"
        say(
            console,
            f"{target}, {name}: moves {size_text(one.moved)}, {size_text(one.moved - one.claimed)} "
            f"more than claimed ({claim}).",
        )
        for line in one.lines:
            place = line.source or "inputs of the graph"
            say(console, f"  {place}: {size_text(line.bytes)} more  {line.text}")
    say(
        console,
        "If that is meant, write the claims anew: the same command with -o in place of --check.",
    )
