"""``torch-materialize why``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from .options import print_left_out

__all__ = ["why_command"]


@click.command("why")
@click.argument("record", type=click.Path(path_type=Path))
@click.argument("tensor")
def why_command(record: Path, tensor: str) -> None:
    """Print why one TENSOR is stored or not.

    RECORD is a file of `explain` or `compare`, or a folder of them. TENSOR is the name of an FX
    node, as the reports show it, or file:line of the model's code. The story ends with the pin to
    copy, where prices were computed. What cannot be read of a folder is left out with a line.
    """
    from ..report.report import Report
    from ..report.tables import say
    from ..results.folder import load_any

    skipped: list[str] = []
    explanation = load_any(record, skipped)
    # Before the story: the tensor may be in what was left out.
    print_left_out(skipped)
    say(Console(), Report(explanation).why(tensor))
