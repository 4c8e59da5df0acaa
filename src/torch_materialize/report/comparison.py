"""A comparison for the terminal: the verdict, the totals, what changed.

Made to read well in 80 columns and to be readable in 60, through a pipe and without colour.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from ..core.traffic import most_read
from ..results.explanation import Explanation
from ..results.headline import place_text, plural, size_text
from .summary import print_changes, print_families, print_verdict
from .tables import figures, plain_table, say, show, totals_table, words

__all__ = ["print_comparison", "print_totals"]


def print_comparison(
    comparison: Explanation, console: Console, top: int = 8, verbose: bool = False
) -> None:
    """Prints what a reader needs to judge the policies; ``top`` rows of each list.

    ``verbose`` adds how it was made, what the other policies change, and the kernels.
    """
    print_verdict(comparison, console)
    print_totals(comparison, console)
    print_changes(comparison, console, top)
    print_families(comparison, console, top)
    if not verbose:
        return
    others = [p for p in comparison.policies[1:] if p != comparison.priced]
    for policy in others:
        print_changes(comparison, console, top, policy)
        print_families(comparison, console, top, policy)
    for policy in comparison.policies:
        show(console, _kernels(comparison, policy, top))
    console.print()
    say(console, _how(comparison), "dim")


def print_totals(comparison: Explanation, console: Console) -> None:
    """Prints bytes and kernels of every policy, with the certified least where there is one."""
    policies = comparison.policies
    bounds = [comparison.bound(policy) for policy in policies]
    least = ["-" if bound is None else size_text(round(bound)) for bound in bounds]
    more = {"least": least} if any(bound is not None for bound in bounds) else {}
    more["peak"] = [size_text(comparison.peak_bytes(policy)) for policy in policies]
    kept = [comparison.kept_bytes(policy) for policy in policies]
    if any(kept):
        more["kept"] = ["-" if one is None else size_text(one) for one in kept]
    totals = {policy: comparison.traffic(policy) for policy in policies}
    table = totals_table(totals, console.width, more)
    if any(column.header == "least" for column in table.columns):
        table.caption = "Least: no choice moves fewer bytes with that policy's kernels."
    if any(column.header == "kept" for column in table.columns):
        kept_is = "Kept: by the forward for its backward."
        table.caption = f"{table.caption} {kept_is}" if table.caption else kept_is
    show(console, table)


def _how(comparison: Explanation) -> str:
    path = {
        "dynamo": "the whole torch.compile pipeline, on fake CPU tensors",
        "make_fx": "make_fx alone, straight to post-grad: no joint-graph or post-grad passes",
    }[comparison.tracing]
    versions = ", ".join(f"{name} {version}" for name, version in comparison.versions.items())
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in comparison.seconds.items())
    graphs = ", ".join(f"{g.title} of {plural(g.nodes, 'node')}" for g in comparison.graphs)
    unit = comparison.unit_bytes
    activation = f" One activation is {size_text(unit)}." if unit else ""
    return (
        f"On {place_text(comparison)}: {graphs}. Traced through {path}. {versions}. "
        f"Took: {seconds}.{activation}"
    )


def _kernels(comparison: Explanation, policy: str, top: int) -> Table:
    table = plain_table(f"Most-read kernels under {policy}")
    words(table, "kernel", "kind")
    figures(table, "inputs", "read", "written")
    for kernel in most_read((g.sides[policy].graph for g in comparison.graphs), top):
        table.add_row(
            kernel.name,
            kernel.kind,
            str(len(kernel.reads)),
            size_text(kernel.read_bytes),
            size_text(kernel.write_bytes),
        )
    return table
