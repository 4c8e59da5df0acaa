"""The ``torch-materialize`` command."""

from __future__ import annotations

import io
import sys

import click

from .._version import __version__
from .agree import agree_command
from .bench_corpus import bench_corpus_command
from .command import Commands
from .compare import compare_command
from .diff import diff_command
from .doctor import doctor_command
from .explain import explain_command
from .plan import plan_command
from .report import report_command
from .sweep import sweep_command
from .tuned import tuned_command
from .why import why_command

__all__ = ["main"]


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="torch-materialize")
def main() -> None:
    """Decide, and see, which intermediates TorchInductor writes to memory."""
    # A line of somebody's model may hold what this terminal has no character for.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


main.add_command(compare_command)
main.add_command(agree_command)
main.add_command(sweep_command)
main.add_command(explain_command)
main.add_command(report_command)
main.add_command(diff_command)
main.add_command(why_command)
main.add_command(doctor_command)
main.add_command(plan_command)
main.add_command(bench_corpus_command)
main.add_command(tuned_command)
