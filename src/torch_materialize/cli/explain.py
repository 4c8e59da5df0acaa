"""``torch-materialize explain``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from ..core.policy import PREDICTED
from .options import file_to_write, rows, saving, target_options, verbose
from .progress import hush_upstream, steps

if TYPE_CHECKING:
    from ..results.explanation import Explanation

__all__ = ["explain_command", "explained"]


@click.command("explain")
@click.argument("target")
@target_options
@click.option("--code", is_flag=True, help="Keep the generated kernels, to see them side by side.")
@rows()
@verbose("Also the bytes of every kernel family.")
@file_to_write(
    "--json", "Write the record (docs/record.md), compressed where the name ends in .gz."
)
@file_to_write("--html", "Write the report as one HTML file.")
def explain_command(
    target: str,
    top: int,
    verbose: bool,
    json_path: Path | None,
    html_path: Path | None,
    **how: Any,
) -> None:
    """Say which intermediates of TARGET are written to memory, and why.

    TARGET is what `compare` takes. For each tensor: what it costs stored and inlined, the rule
    that decided, and the pin to copy. No weights are allocated and nothing runs.
    """
    from ..report.report import Report
    from ..report.terminal import print_explanation

    explanation = explained(target, **how)
    print_explanation(explanation, Console(), top, verbose)
    for path in (json_path, html_path):
        if path is not None:
            with saving(path):
                Report(explanation).save(path)


def explained(
    target: str, *, policies: tuple[str, ...], device: str, tokens: int, **how: Any
) -> Explanation:
    """What the job finds under these policies (all where none is named), with its progress."""
    from ..jobs.explain import check_words, explain_target
    from ..models.names import most_tokens

    chosen = policies or PREDICTED
    check_words(target, chosen, device)
    hush_upstream()
    fitting = most_tokens(target, tokens)
    if fitting < tokens:
        click.echo(f"{target} has {fitting} positions: {fitting} tokens, not {tokens}", err=True)
    with steps() as step:
        return explain_target(target, chosen, device, tokens=tokens, step=step, **how)
