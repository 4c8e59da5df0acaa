"""``torch-materialize explain``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from ..core.policy import PREDICTED
from .options import file_to_write, planned, policies_to, rows, saving
from .progress import hush_upstream, steps

if TYPE_CHECKING:
    from ..models.targets import Size
    from ..results.explanation import Explanation

__all__ = ["explain_command", "explained"]


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
    from ..models.targets import Size
    from ..report.report import Report
    from ..report.terminal import print_explanation

    size = Size(tokens, batch, layers)
    explanation = explained(target, policies, device, size, training=training, code=code)
    print_explanation(explanation, Console(), top)
    for path in (json_path, html_path):
        if path is not None:
            with saving(path):
                Report(explanation).save(path)


def explained(
    target: str, policies: tuple[str, ...], device: str, size: Size, **how: Any
) -> Explanation:
    """What the job finds under these policies (all where none is named), with its progress."""
    from ..jobs.explain import explain_target
    from ..models.targets import most_tokens

    hush_upstream()
    fitting = most_tokens(target, size.tokens)
    if fitting < size.tokens:
        message = f"{target} has {fitting} positions: {fitting} tokens, not {size.tokens}"
        click.echo(message, err=True)
    with steps() as step:
        return explain_target(target, policies or PREDICTED, device, **vars(size), step=step, **how)
