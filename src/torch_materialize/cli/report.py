"""``torch-materialize report``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from .options import file_to_write, print_left_out, rows, verbose

__all__ = ["report_command"]


@click.command("report")
@click.argument("record", type=click.Path(path_type=Path))
@file_to_write("--html", "Write the report as one HTML file.")
@file_to_write("--perfetto", "Write a timeline for ui.perfetto.dev. Its durations are modelled.")
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    help="A trace that torch.profiler exported: --html shows its times beside the kernels.",
)
@rows()
@verbose("Also the bytes of every kernel family.")
def report_command(
    record: Path,
    html_path: Path | None,
    perfetto_path: Path | None,
    trace: Path | None,
    top: int,
    verbose: bool,
) -> None:
    """Show a RECORD that `explain` or `compare` wrote, or all of a folder joined.

    Exit status: 1 when a record of a folder could not be read and was left out, 0 otherwise.

    A folder is what a program leaves that runs with TORCH_MATERIALIZE_RECORD=FOLDER.
    """
    from ..report.html import page
    from ..report.perfetto import timeline
    from ..report.terminal import print_explanation
    from ..report.trace import read_trace
    from ..results.base import write_json, write_whole
    from ..results.folder import load_any

    if trace is not None and html_path is None:
        raise click.UsageError("--trace is shown in the page alone: name it with --html FILE")
    measured = None if trace is None else read_trace(trace)
    skipped: list[str] = []
    explanation = load_any(record, skipped)
    if html_path is not None:
        write_whole(html_path, page(explanation, measured).encode())
        click.echo(f"written to {html_path}", err=True)
    if perfetto_path is not None:
        write_json(perfetto_path, timeline(explanation))
        click.echo(f"written to {perfetto_path}", err=True)
    print_explanation(explanation, Console(), top, verbose)
    print_left_out(skipped)
    if skipped:
        click.get_current_context().exit(1)
