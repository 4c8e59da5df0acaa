"""``torch-materialize tuned``."""

from __future__ import annotations

import datetime

import click
from rich.console import Console

from ..report.tables import say
from ..results import tuned
from ..results.headline import plural

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
    print_choices(Console())


def print_choices(console: Console) -> None:
    """Prints what `tune` has chosen, oldest first, and what cannot be read."""
    found = list(tuned.entries())
    say(console, f"{plural(len(found), 'choice')} in {tuned.folder()}")
    for one in found:
        measured = one.measured
        if measured is None:
            continue
        times = ", ".join(f"{name} {1e3 * s:.3f} ms" for name, s in measured.seconds.items())
        made = datetime.datetime.fromtimestamp(measured.made).isoformat(" ", "minutes")
        about = {what: measured.about.get(what, "unknown") for what in ("graph", "device", "torch")}
        console.print()
        say(console, f"{one.key[:8]}  {made}  {about['graph']}: {measured.choice}")
        say(console, f"    {about['device']}; torch {about['torch']}")
        say(console, f"    {times or 'nothing to time'} (noise {100 * measured.noise:.1f}%)")
    for error in tuned.damaged():
        say(console, f"\nnot a choice, ignored and made anew when it is needed: {error}")


@tuned_command.command("clear")
def clear_command() -> None:
    """Forget every choice; what Inductor's own caches hold stays as it was compiled."""
    try:
        click.echo(f"{plural(tuned.clear(), 'choice')} forgotten in {tuned.folder()}")
    except OSError as error:
        raise click.ClickException(
            f"{tuned.folder()} cannot be cleared: {error.strerror}. Remove its files by hand."
        ) from error
