"""From a run of upstream's tests to text."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..upstream import UpstreamRun

__all__ = ["print_upstream"]


def print_upstream(run: UpstreamRun, console: Console) -> None:
    """Shows what changed, and one line of counts for each side."""
    changes = run.changes()
    if changes:
        table = Table(title=f"Tests that change under {run.policy}", title_justify="left")
        for name in ("test", "how", "stock", str(run.policy)):
            table.add_column(name, overflow="fold")
        for change in changes:
            style = "red" if change.is_worse else ""
            cells = (change.test, change.how, change.stock, change.policy)
            table.add_row(*map(escape, cells), style=style)
        console.print(table)
    for change in changes:
        if change.is_worse and change.message:
            console.print(f"\n{change.test}", markup=False)
            console.print(change.message, markup=False, highlight=False)
    for name, outcomes in (("stock", run.stock), (str(run.policy), run.governed)):
        counts = Counter(one.outcome for one in outcomes.values())
        told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        console.print(f"{name}: {told or 'no test ran'}", markup=False, highlight=False)
    for warning in dict.fromkeys(run.warnings):
        console.print(f"warned: {warning}", markup=False, highlight=False)
    worse = sum(change.is_worse for change in changes)
    console.print(
        f"{len(changes)} changed, {worse} of them for the worse; {run.seconds:.0f} s",
        highlight=False,
    )
