"""An explanation for the terminal: the headline, the decisions worth most, the kernels.

Made to read well in 80 columns, through a pipe and without colour.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from ..core.story import gap_text
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
    plural,
    refusals,
    size_text,
    sum_rows,
)
from ..results.kept import curve_rows, kept_rows, peak_sentences
from .comparison import print_totals
from .summary import print_changes, print_families, print_verdict
from .tables import figures, plain_table, say, show, words

__all__ = ["print_explanation"]


def print_explanation(
    explanation: Explanation, console: Console, top: int = 8, verbose: bool = False
) -> None:
    """Prints what a reader needs, what matters most first; ``top`` rows of each list.

    ``verbose`` adds how it was made and every family's bytes.
    """
    print_verdict(explanation, console)
    for line in [*_headline(explanation), *peak_sentences(explanation)]:
        say(console, line)
    print_totals(explanation, console)
    print_changes(explanation, console, top)
    print_families(explanation, console, top)
    if not explanation.prices:
        console.print()
        say(console, NOT_PRICED)
    tables = [_growth(explanation), _decisions(explanation, top)]
    tables += [_kept(explanation, top), _curve(explanation)]
    tables += [_families(explanation, top)] if verbose else []
    for table in (*tables, _kernels(explanation, top)):
        if table is not None:
            show(console, table)
    console.print()
    graphs = ", ".join(f"{g.title} of {plural(g.nodes, 'node')}" for g in explanation.graphs)
    versions = ", ".join(f"{name} {version}" for name, version in explanation.versions.items())
    where = f"On {place_text(explanation)}: {graphs}."
    say(console, f"{where} {versions}. Numerics: {explanation.numerics}.", "dim")


def _headline(explanation: Explanation) -> list[str]:
    found, first = headline(explanation), explanation.policies[0]
    if found.avoidable is None:
        line = "unknown: no plan here has a certified least"
    else:
        share = f" ({found.avoidable / found.moved:.1%})" if found.moved else ""
        line = f"{size_text(found.avoidable)}{share} of {size_text(found.moved)}"
    lines = [f"Avoidable in what {first} moves: {line}."]
    if found.bound is not None:
        least, above = size_text(round(found.bound)), gap_text(explanation.gap(), found.bound)
        lines.append(f"Certified least: {least}; above it {explanation.priced} is {above}.")
    return lines + refusals(explanation)[1:]


def _growth(explanation: Explanation, most: int = 12) -> Table | None:
    row = growth(explanation)
    if row is None:
        return None
    unit = "activations" if explanation.unit_bytes else f"units of {size_text(row.unit)}"
    table = plain_table(f"Read by {row.family} kernels in order, in {unit}")
    words(table, "policy", "kernel by kernel")
    for policy, reads in row.reads.items():
        shown = "  ".join(f"{size / row.unit:.3g}" for size in reads[:most])
        more = f"  and {len(reads) - most} more" if len(reads) > most else ""
        table.add_row(policy, shown + more)
    return table


def _decisions(explanation: Explanation, top: int) -> Table | None:
    rows = decision_rows(explanation, top)
    if not rows:
        return None
    shares, first = has_shares(explanation), explanation.policies[0]
    table = plain_table("Decisions worth most")
    words(table, "tensor", "type", "stored by")
    figures(table, *(("saves",) if shares else ("stored", "inlined")))
    words(table, "where")
    for row in rows:
        more = f" and {row.alike} alike" if row.alike else ""
        cells = (row.saves,) if shares else (row.stored, row.inlined)
        table.add_row(row.name + more, row.type, row.stored_by, *cells, row.where)
    for what, saves in sum_rows(explanation, top):
        table.add_row(what, "", "", saves, "")
    how = (
        f"What deciding it as {explanation.priced} does saves against {first}; together all that "
        "is saved."
        if shares
        else f"Bytes above the better way if all alike were flipped at once, the rest as "
        f"{explanation.priced} has it."
    )
    table.caption = f"{how} One tensor's story: torch-materialize why RECORD TENSOR."
    return table


def _kept(explanation: Explanation, top: int) -> Table | None:
    rows, more, left = kept_rows(explanation, top)
    if not rows:
        return None
    table = plain_table("What the forward keeps for its backward")
    words(table, "tensor")
    figures(table, "bytes")
    words(table, "kept by", "if recomputed", "where")
    for row in rows:
        alike = f" and {row.alike} alike" if row.alike else ""
        table.add_row(row.name + alike, row.bytes, row.kept_by, row.recomputed, row.where)
    if more:
        table.add_row(plural(more, "more tensor"), size_text(left), "", "", "")
    table.caption = (
        "If recomputed: bytes that fused kernels are foreseen to move more a step where none of "
        "them is kept, with the work of matmuls that run again as bytes; or why they are not."
    )
    return table


def _curve(explanation: Explanation) -> Table | None:
    rows = curve_rows(explanation)
    if not rows:
        return None
    table = plain_table("Memory against bytes")
    words(table, "choice of what is kept")
    figures(table, "kept", "of stock", "moved a step")
    for row in rows:
        table.add_row(row.who, row.kept, row.of_stock, row.more)
    table.caption = (
        "Foreseen, not lowered. plan at 0.7 is memory=0.7; upstream at 0.7 is "
        "activation_memory_budget=0.7."
    )
    return table


def _families(explanation: Explanation, top: int) -> Table:
    table = plain_table("Moved by kernel family")
    words(table, "family")
    for policy in explanation.policies:
        table.add_column(policy, justify="right", overflow="fold")
    for family, row in list(families(explanation).items())[:top]:
        table.add_row(family, *(size_text(row[policy]) for policy in explanation.policies))
    return table


def _kernels(explanation: Explanation, top: int) -> Table:
    table = plain_table(f"Most-read kernels under {explanation.priced}")
    words(table, "kernel", "family")
    figures(table, "inputs", "read", "written")
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
