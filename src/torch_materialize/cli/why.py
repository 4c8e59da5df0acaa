"""``torch-materialize why``."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["why_command"]


@click.command("why")
@click.argument("record", type=click.Path(path_type=Path))
@click.argument("tensor")
def why_command(record: Path, tensor: str) -> None:
    """Tell the story of one TENSOR of a RECORD that `explain` or `compare` wrote.

    TENSOR is the name of an FX node, as the reports show it, or file:line of the model's code.
    The story ends with the pin to copy, where prices were asked for.
    """
    from ..report.report import Report
    from ..results.folder import load_any

    click.echo(Report(load_any(record)).why(tensor))
