"""``torch-materialize report``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

__all__ = ["report_command"]


@click.command("report")
@click.argument("record", type=click.Path(path_type=Path))
@click.option(
    "--html",
    "html_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the report as one HTML file.",
)
@click.option(
    "--perfetto",
    "perfetto_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a timeline for ui.perfetto.dev. Its durations are modelled.",
)
@click.option("--top", default=8, show_default=True, type=click.IntRange(0), help="Rows per list.")
def report_command(
    record: Path, html_path: Path | None, perfetto_path: Path | None, top: int
) -> None:
    """Show a RECORD that `explain` wrote, or all of a folder joined.

    A folder is what a program leaves that runs with TORCH_MATERIALIZE_RECORD=FOLDER.
    """
    from ..joining import load_any
    from ..record import write_json, write_whole
    from ..report.explanation import Report
    from ..report.perfetto import timeline
    from ..report.story import print_explanation

    for option, path in (("--html", html_path), ("--perfetto", perfetto_path)):
        if path is not None and not path.parent.is_dir():
            raise click.BadParameter(f"there is no folder {path.parent}", param_hint=option)
    explanation = load_any(record)
    if html_path is not None:
        write_whole(html_path, Report(explanation).html().encode())
        click.echo(f"written to {html_path}", err=True)
    if perfetto_path is not None:
        write_json(perfetto_path, timeline(explanation))
        click.echo(f"written to {perfetto_path}", err=True)
    print_explanation(explanation, Console(), top)
