"""``torch-materialize explain``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from ..core.policy import PREDICTED
from .options import planned
from .progress import hush_upstream, steps

__all__ = ["explain_command"]


@click.command("explain")
@click.argument("target")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    help=f"A policy to explain; repeat it. One of {', '.join(PREDICTED)}. Default: all.",
)
@planned
@click.option("--training", is_flag=True, help="Explain forwards and backwards.")
@click.option("--code", is_flag=True, help="Keep the generated kernels, to see them side by side.")
@click.option("--top", default=8, show_default=True, type=click.IntRange(0), help="Rows per list.")
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the record (docs/record.md), compressed where the name ends in .gz.",
)
@click.option(
    "--html",
    "html_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the report as one HTML file.",
)
def explain_command(
    target: str,
    policies: tuple[str, ...],
    device: str,
    tokens: int,
    batch: int,
    layers: int | None,
    training: bool,
    code: bool,
    top: int,
    json_path: Path | None,
    html_path: Path | None,
) -> None:
    """Say which intermediates of TARGET are written to memory, and why.

    TARGET is what `compare` takes, or a model of the corpus (`sweep --list`). For each tensor:
    what it costs stored and inlined, the rule that decided, and the pin to copy. No weights
    are allocated and nothing runs.
    """
    from ..explainer import explain_target
    from ..report.explanation import Report
    from ..report.story import print_explanation

    for option, path in (("--json", json_path), ("--html", html_path)):
        if path is not None and not path.parent.is_dir():
            raise click.BadParameter(f"there is no folder {path.parent}", param_hint=option)
    hush_upstream()
    with steps() as step:
        explanation = explain_target(
            target,
            policies or PREDICTED,
            device,
            tokens=tokens,
            batch=batch,
            layers=layers,
            training=training,
            code=code,
            step=step,
        )
    for path in (json_path, html_path):
        if path is not None:
            Report(explanation).save(path)
            click.echo(f"written to {path}", err=True)
    print_explanation(explanation, Console(), top)
