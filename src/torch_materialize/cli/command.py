"""Commands that show our own errors as one message; anything else is a bug with its traceback."""

from __future__ import annotations

import click

from ..errors import MaterializeError
from .interrupt import INTERRUPTED

__all__ = ["Command", "Commands"]


class _Shown(click.Command):
    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except MaterializeError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            click.echo("interrupted: nothing was written, and a new run starts over", err=True)
            ctx.exit(INTERRUPTED)


class Command(_Shown):
    """One command."""


class Commands(_Shown, click.Group):
    """A group of commands."""
