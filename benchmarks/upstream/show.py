"""From a run of upstream's tests to text."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from torch_materialize.core.policy import LIMITS
from upstream.run import Change, Progress, UpstreamRun

__all__ = ["ended_text", "print_upstream"]

# Tests that fail with both and are listed; the file of the run has all.
_LISTED = 20


def ended_text(progress: Progress) -> str:
    """One line for a file that has run."""
    failed = f", {progress.failed} of them failed" if progress.failed else ""
    return f"{progress.file} under {progress.policy}: {progress.done} tests{failed}"


def print_upstream(run: UpstreamRun, console: Console) -> None:
    """Shows what changed, what fails anyway, and one line of counts for each side."""

    def told(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    changes = run.changes()
    if changes:
        _print_changes(run, changes, console)
    for change in changes:
        if change.is_worse and change.message:
            told(f"\n{change.test}")
            told(change.message)
    failing = run.failing_with_both()
    if failing:
        told(f"\n{len(failing)} tests fail with both:")
    for test, one in list(failing.items())[:_LISTED]:
        told(f"  {test}: {one.headline}")
    if len(failing) > _LISTED:
        told(f"  and {len(failing) - _LISTED} more, which --json names")
    for name, outcomes in (("stock", run.stock), (str(run.policy), run.governed)):
        counts = Counter(one.outcome for one in outcomes.values())
        ended = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        told(f"{name}: {ended or 'no test ran'}")
    for warning in run.warnings:
        told(f"warned: {warning}")
    told(_acted(run))
    for name in run.files:
        if why := run.unproven(name):
            told(f"error: {name} proves nothing on {run.device}: {why}. {_NEXT}")
    worse = sum(change.is_worse for change in changes)
    told(f"{len(changes)} changed, {worse} of them for the worse; {run.seconds:.0f} s")


_NEXT = "Choose tests that pass with stock (--device, --file, -k), at the version of this torch."


def _print_changes(run: UpstreamRun, changes: list[Change], console: Console) -> None:
    table = Table(title=f"Tests that change under {run.policy}", title_justify="left")
    for name in ("test", "how", "stock", str(run.policy)):
        table.add_column(name, overflow="fold")
    for change in changes:
        style = "red" if change.is_worse else ""
        cells = (change.test, change.how, change.stock, change.policy)
        table.add_row(*map(escape, cells), style=style)
    console.print(table)


def _acted(run: UpstreamRun) -> str:
    """In how many graphs a plan acted: what passes where none did is a test of stock."""
    planned, acted = run.graphs
    if not planned:
        return f"{run.policy} planned no graph"
    line = f"{run.policy} acted in {acted} of {planned} graphs"
    stronger = [name for name in LIMITS if name not in ("usual", run.policy.limits)]
    if acted or run.policy.limits == "random":
        return line
    return (
        f"{line}: what passes is no test of it. Try {' or '.join(f'limits={x}' for x in stronger)}."
    )
