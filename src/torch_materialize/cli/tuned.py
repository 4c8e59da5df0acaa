"""``torch-materialize tuned``."""

from __future__ import annotations

import datetime

import click

from ..results import tuned

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
    click.echo(f"{len(found)} choices in {tuned.folder()}")
    for one in found:
        times = ", ".join(f"{name} {1e3 * s:.3f} ms" for name, s in one.seconds.items())
        made = datetime.datetime.fromtimestamp(one.made).isoformat(" ", "minutes")
        about = {what: one.about.get(what, "unknown") for what in ("graph", "device", "torch")}
        click.echo(f"\n{one.key[:8]}  {made}  {about['graph']}: {one.choice}")
        click.echo(f"    {about['device']}; torch {about['torch']}")
        click.echo(f"    {times or 'nothing to time'} (noise {100 * one.noise:.1f}%)")
    for error in tuned.damaged():
        click.echo(f"\nnot a choice, ignored and made anew when it is needed: {error}")


@tuned_command.command("clear")
def clear_command() -> None:
    """Forget every choice; what Inductor's own caches hold stays as it was compiled."""
    try:
        click.echo(f"{tuned.clear()} choices forgotten in {tuned.folder()}")
    except OSError as error:
        raise click.ClickException(
            f"{tuned.folder()} cannot be cleared: {error.strerror}. Remove its files by hand."
        ) from error
