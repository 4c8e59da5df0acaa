"""An explanation for the terminal: the headline, the decisions worth most, the kernels.

Made to read well in 80 columns, through a pipe and without colour.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..core.traffic import most_read
from ..results.explanation import Explanation
from ..results.headline import (
    NOT_PRICED,
    decision_rows,
    families,
    growth,
    has_shares,
    headline,
    place_text,
    refusals,
    size_text,
    sum_rows,
)
from .comparison import plain_table, totals_table

__all__ = ["print_explanation"]


def print_explanation(explanation: Explanation, console: Console, top: int = 8) -> None:
    """Prints what a reader needs, what matters most first; ``top`` rows of each list."""
    place = place_text(explanation)
    graphs = ", ".join(f"{g.kind} of {g.nodes} nodes" for g in explanation.graphs)
    console.print(f"[bold]{explanation.target}[/bold] on {place}: {graphs}", highlight=False)
    versions = ", ".join(f"{name} {version}" for name, version in explanation.versions.items())
    console.print(Text(f"{versions}. Numerics: {explanation.numerics}.", style="dim"))
    for line in _headline(explanation):
        console.print(line, highlight=False)
    for table in (_policies(explanation), _growth(explanation), _decisions(explanation, top)):
        if table is not None:
            console.print(table)
    console.print(_families(explanation, top))
    console.print(_kernels(explanation, top))


def _headline(explanation: Explanation) -> list[str]:
    figures, first = headline(explanation), explanation.policies[0]
    lines = ["", f"{'moved by ' + first:24} {size_text(figures.moved)}"]
    if figures.avoidable is None:
        lines.append(f"{'of it avoidable':24} unknown: no plan here has a certified least")
    else:
        share = f" ({figures.avoidable / figures.moved:.1%})" if figures.moved else ""
        lines.append(f"{'of it avoidable':24} [bold]{size_text(figures.avoidable)}[/bold]{share}")
    if explanation.priced != first:
        lines.append(f"{'moved by ' + explanation.priced:24} {size_text(figures.planned)}")
    if figures.bound is not None and figures.left is not None:
        left = f"; {explanation.priced} is at most {figures.left / max(figures.bound, 1):.2%} above"
        lines.append(f"{'certified least':24} {size_text(round(figures.bound))}{left}")
    left_out = sum(graph.left_out for graph in explanation.graphs)
    if left_out:
        lines.append(f"{left_out} nodes of repeated layers, decided alike, are not counted here.")
    return lines + refusals(explanation)


def _policies(explanation: Explanation) -> Table:
    def peak(policy: str) -> int:
        sides = [g.sides[policy] for g in explanation.graphs if policy in g.sides]
        return max((side.peak_bytes for side in sides), default=0)

    return totals_table(
        {policy: explanation.traffic(policy) for policy in explanation.policies},
        peak={policy: size_text(peak(policy)) for policy in explanation.policies},
    )


def _growth(explanation: Explanation, most: int = 12) -> Table | None:
    row = growth(explanation)
    if row is None:
        return None
    unit = "activations" if explanation.unit_bytes else f"units of {size_text(row.unit)}"
    table = plain_table(f"Read by {row.family} kernels in order, in {unit}")
    table.min_width = 60
    table.add_column("policy", no_wrap=True)
    table.add_column("kernel by kernel", overflow="ellipsis", no_wrap=True)
    for policy, reads in row.reads.items():
        shown = "  ".join(f"{size / row.unit:.3g}" for size in reads[:most])
        table.add_row(policy, shown + (" …" if len(reads) > most else ""))
    return table


def _decisions(explanation: Explanation, top: int) -> Table | Text | None:
    if not explanation.prices:
        return Text(f"{NOT_PRICED}\n")
    rows = decision_rows(explanation, top)
    if not rows:
        return None
    shares, first = has_shares(explanation), explanation.policies[0]
    table = plain_table("Decisions worth most")
    for heading in ("tensor", "type", "stored by"):
        table.add_column(heading, overflow="fold")
    for heading in ("saves",) if shares else ("stored", "inlined"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("where", overflow="fold")
    for row in rows:
        more = f" and {row.alike} alike" if row.alike else ""
        cells = (row.saves,) if shares else (row.stored, row.inlined)
        table.add_row(row.name + more, row.type, row.stored_by, *cells, row.where)
    for words, saves in sum_rows(explanation, top):
        table.add_row(words, "", "", saves, "")
    how = (
        f"What deciding it as {explanation.priced} does saves against {first}; together all that "
        "is saved."
        if shares
        else f"Bytes above the better way if all alike were flipped at once, the rest as "
        f"{explanation.priced} has it."
    )
    table.caption = f"{how} One tensor's story: torch-materialize why RECORD TENSOR."
    table.caption_justify = "left"
    return table


def _families(explanation: Explanation, top: int) -> Table:
    table = plain_table("Moved by kernel family")
    table.add_column("family", overflow="fold")
    for policy in explanation.policies:
        table.add_column(policy, justify="right", no_wrap=True)
    for family, row in list(families(explanation).items())[:top]:
        table.add_row(family, *(size_text(row[policy]) for policy in explanation.policies))
    return table


def _kernels(explanation: Explanation, top: int) -> Table:
    table = plain_table(f"Most-read kernels under {explanation.priced}")
    table.add_column("kernel", overflow="fold")
    table.add_column("family", overflow="fold")
    table.add_column("inputs", justify="right")
    table.add_column("read", justify="right", no_wrap=True)
    table.add_column("written", justify="right", no_wrap=True)
    sides = [(g, g.sides[explanation.priced]) for g in explanation.graphs]
    family = {
        id(kernel): name
        for graph, side in sides
        for kernel, name in zip(side.graph.kernels, graph.families(explanation.priced), strict=True)
    }
    for kernel in most_read((side.graph for _, side in sides), top):
        table.add_row(
            kernel.name,
            family[id(kernel)],
            str(len(kernel.reads)),
            size_text(kernel.read_bytes),
            size_text(kernel.write_bytes),
        )
    return table
