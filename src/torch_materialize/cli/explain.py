"""``torch-materialize explain``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from ..core.policy import PREDICTED
from .options import file_to_write, planned, policies_to, rows, saving
from .progress import hush_upstream, steps

__all__ = ["explain_command"]


@click.command("explain")
@click.argument("target")
@policies_to("explain")
@planned
@click.option("--training", is_flag=True, help="Explain forwards and backwards.")
@click.option("--code", is_flag=True, help="Keep the generated kernels, to see them side by side.")
@rows()
@file_to_write(
    "--json", "Write the record (docs/record.md), compressed where the name ends in .gz."
)
@file_to_write("--html", "Write the report as one HTML file.")
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
    from ..jobs.explain import explain_target
    from ..models.targets import most_tokens
    from ..report.report import Report
    from ..report.terminal import print_explanation

    hush_upstream()
    fitting = most_tokens(target, tokens)
    if fitting < tokens:
        click.echo(f"{target} has {fitting} positions: {fitting} tokens, not {tokens}", err=True)
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
    print_explanation(explanation, Console(), top)
    for path in (json_path, html_path):
        if path is not None:
            with saving(path):
                Report(explanation).save(path)
