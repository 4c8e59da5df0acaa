"""``torch-materialize bench-corpus``."""

from __future__ import annotations

import os
from pathlib import Path

import click
from rich.console import Console

from .interrupt import INTERRUPTED, twice_is_now
from .options import file_to_write, in_children, planning_options
from .sweep import swept

__all__ = ["bench_corpus_command"]


@click.command("bench-corpus")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@planning_options
@in_children("Files", "one file")
@file_to_write("--json", "Keep the rows (docs/record.md) in this file, rewritten after every file.")
@click.pass_context
def bench_corpus_command(
    ctx: click.Context,
    path: Path,
    policies: tuple[str, ...],
    device: str,
    at_once: int | None,
    timeout: float,
    json_path: Path | None,
) -> None:
    """Measure policies on the captured graphs in PATH, a folder or one file.

    Files are graphs as torch prints them, with shapes, strides and devices in annotations:
    print_readable(include_stride=True, include_device=True), fx_graph_readable.py, a log of
    TORCH_LOGS=post_grad_graphs; `sweep --dump-graphs` writes such a folder. They are read and not
    run. A folder with model.py and input_meta.py, as GraphNet publishes them, is imported, traced
    and compiled as a model; look at what you import.

    Every plan is verified by lowering it once more. What cannot be read is a row with its reason.
    Exit status: 0 when at least one graph was measured and nothing moves other bytes than claimed.
    """
    from ..sweep.collection import jobs_in
    from ..sweep.run import new_sweep
    from ..sweep.workers import end_at_once
    from .sweep_tables import print_graphs

    jobs = jobs_in(path)
    sweep = new_sweep(device, policies, verify=True, smallest_nodes=1)
    with twice_is_now(end_at_once):
        try:
            sweep = swept(sweep, jobs, at_once or len(os.sched_getaffinity(0)), timeout, json_path)
        except KeyboardInterrupt:
            click.echo("interrupted: what is done is in the --json file, if any", err=True)
            ctx.exit(INTERRUPTED)
    print_graphs(sweep, Console())
    if json_path is not None:
        click.echo(f"rows written to {json_path}", err=True)
    unproven = any("claimed" in model.message for model in sweep.models)
    ctx.exit(1 if unproven or not sweep.graphs else 0)
