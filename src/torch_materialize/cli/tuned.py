"""``torch-materialize tuned``."""

from __future__ import annotations

import datetime

import click
from rich import box
from rich.console import Console
from rich.table import Table

from .. import tuned

__all__ = ["tuned_command"]


@click.group("tuned", invoke_without_command=True)
@click.pass_context
def tuned_command(ctx: click.Context) -> None:
    """Show or forget what the policy `tune` has chosen on this machine.

    Without a command this is `tuned list`.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_command)


@tuned_command.command("list")
def list_command() -> None:
    """Show every choice: the graph, what was fastest, and the times of all."""
    found = list(tuned.entries())
    console = Console()
    console.print(f"{len(found)} choices in {tuned.folder()}", highlight=False, soft_wrap=True)
    if not found:
        return
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("key", "made", "graph", "device", "torch", "kept", "milliseconds", "noise"):
        table.add_column(heading, overflow="fold")
    for one in found:
        times = ", ".join(f"{name} {1e3 * s:.3f}" for name, s in one.seconds.items())
        made = datetime.datetime.fromtimestamp(one.made).isoformat(" ", "minutes")
        known = (one.about.get(what, "") for what in ("graph", "device", "torch"))
        table.add_row(one.key[:8], made, *known, one.choice, times, f"{100 * one.noise:.1f}%")
    console.print(table)


@tuned_command.command("clear")
def clear_command() -> None:
    """Forget every choice; what Inductor's own caches hold stays as it was compiled."""
    try:
        click.echo(f"{tuned.clear()} choices forgotten in {tuned.folder()}")
    except OSError as error:
        raise click.ClickException(
            f"{tuned.folder()} cannot be cleared: {error.strerror}. Remove its files by hand."
        ) from error
