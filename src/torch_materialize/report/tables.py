"""Tables and lines for the terminal: nothing is cut, whatever the width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..core.traffic import Traffic
from ..results.headline import size_text

__all__ = ["figures", "plain_table", "say", "show", "totals_table", "words"]


def plain_table(title: str) -> Table:
    """A table without frames, as all of ours look; :func:`show` prints it."""
    return Table(
        title=title,
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )


def show(console: Console, table: Table) -> None:
    """Prints a table with its title above and its caption below, which may be wider than it.

    One without rows is not printed.
    """
    if not table.row_count:
        return
    title, caption = table.title, table.caption
    table.title = table.caption = None
    console.print()
    if title:
        say(console, str(title), "bold")
    console.print(table, markup=False, highlight=False)
    if caption:
        say(console, str(caption), "dim")


def words(table: Table, *headings: str, ratio: int | None = None) -> None:
    """Adds columns of text, which wraps; what has no space to wrap at is folded."""
    for heading in headings:
        table.add_column(heading, overflow="fold", ratio=ratio)


def figures(table: Table, *headings: str) -> None:
    """Adds columns of figures, which stay on one line while there is room for it."""
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True, overflow="fold")


def say(console: Console, text: str, style: str = "") -> None:
    """Prints text as it is: no markup, no colours by pattern, wrapped at words."""
    console.print(Text(text, style=style), highlight=False, overflow="fold")


def totals_table(
    totals: Mapping[str, Traffic], width: int, more: Mapping[str, Sequence[str]] | None = None
) -> Table:
    """The fused kernels under each policy, held against the first.

    ``more`` has further columns, by heading: the first of them that a terminal of ``width``
    characters has room for.
    """
    table = plain_table("Fused kernels")
    first = next(iter(totals))
    base = totals[first].bytes
    columns: dict[str, Sequence[str]] = {
        "policy": list(totals),
        "kernels": [str(total.kernels) for total in totals.values()],
        "read": [size_text(total.read_bytes) for total in totals.values()],
        "written": [size_text(total.write_bytes) for total in totals.values()],
        "moved": [size_text(total.bytes) for total in totals.values()],
        f"of {first}": [f"x{total.bytes / base:.3f}" if base else "-" for total in totals.values()],
    }
    for heading, column in (more or {}).items():
        wider = {**columns, heading: column}
        if sum(max(map(len, (name, *cells))) + 2 for name, cells in wider.items()) - 2 > width:
            break
        columns = wider
    words(table, "policy")
    figures(table, *list(columns)[1:])
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table
