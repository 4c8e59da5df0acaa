"""The ``torch-materialize`` command."""

from __future__ import annotations

import click

from .._version import __version__
from ..errors import MaterializeError
from .compare import compare_command
from .diff import diff_command
from .doctor import doctor_command
from .explain import explain_command
from .interrupt import INTERRUPTED
from .report import report_command
from .sweep import sweep_command
from .tuned import tuned_command
from .upstream_tests import upstream_tests_command
from .why import why_command

__all__ = ["main"]


class _Commands(click.Group):
    """Shows our own errors as one message; anything else is a bug and keeps its traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except MaterializeError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            click.echo("interrupted: nothing was written, and a new run starts over", err=True)
            ctx.exit(INTERRUPTED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="torch-materialize")
def main() -> None:
    """Decide, and see, which intermediates TorchInductor writes to memory."""


main.add_command(compare_command)
main.add_command(sweep_command)
main.add_command(explain_command)
main.add_command(report_command)
main.add_command(diff_command)
main.add_command(why_command)
main.add_command(doctor_command)
main.add_command(upstream_tests_command)
main.add_command(tuned_command)
