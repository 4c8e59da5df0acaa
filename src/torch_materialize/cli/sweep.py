"""``torch-materialize sweep``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from ..sweep.spec import KINDS
from .interrupt import INTERRUPTED, Stopped, twice_is_now
from .options import dump_graphs, file_to_write, in_children, target_options
from .progress import counted

if TYPE_CHECKING:
    from ..sweep.rows import Job, ModelRow
    from ..sweep.run import Sweep
    from ..sweep.spec import Kind

__all__ = ["sweep_command", "swept"]


@click.command("sweep")
@click.argument("names", nargs=-1)
@target_options
@click.option("--family", "families", multiple=True, help="Only this family (--list). Repeatable.")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice([kind for group in KINDS.values() for kind in group]),
    help="Only graphs of this kind. Repeatable.",
)
@in_children("Models", "one model in one mode")
@file_to_write(
    "--json", "Keep the sweep (docs/record.md) in this file, rewritten after every model."
)
@click.option(
    "--verify",
    is_flag=True,
    help="Lower every plan once more, and fail where it moves other bytes than claimed.",
)
@dump_graphs
@click.option("--resume", is_flag=True, help="Skip what the --json file has, failures too.")
@click.option("--list", "list_only", is_flag=True, help="Show the models and stop.")
@click.pass_context
def sweep_command(
    ctx: click.Context,
    /,
    names: tuple[str, ...],
    training: bool,
    families: tuple[str, ...],
    kinds: tuple[Kind, ...],
    at_once: int | None,
    timeout: float,
    json_path: Path | None,
    verify: bool,
    dump: Path | None,
    resume: bool,
    list_only: bool,
    **how: Any,
) -> None:
    """Measure policies on many models for a device, which need not be there.

    NAMES are models of the corpus (--list; most need `pip install
    "torch-materialize[corpus]"`) or other targets as `compare` takes them; without one,
    the whole corpus is swept. No weights are allocated, nothing runs and nothing is downloaded.

    A model that fails, crashes or takes too long is a row of its own. Ctrl-C or SIGTERM stops what
    runs and says what is kept; a second one does not wait for that. Exit status: 0 when at
    least one graph was measured, 1 otherwise, and with --verify wherever something failed.
    """
    from ..sweep import file
    from ..sweep.run import jobs_for, new_sweep
    from ..sweep.workers import end_at_once
    from .sweep_tables import print_corpus, print_sweep

    kinds = tuple(dict.fromkeys((*kinds, *(KINDS["training"] if training else ()))))
    jobs = jobs_for(names, families, kinds)
    if list_only:
        from ..sweep.registry import CORPUS

        print_corpus([m for m in CORPUS if m.name in {job.name for job in jobs}], Console())
        return
    if resume and json_path is None:
        raise click.UsageError("--resume needs the file to go on with: --json FILE")
    sweep = new_sweep(kinds=kinds, verify=verify, **how)
    if resume and json_path is not None:
        sweep = file.resume(json_path, sweep)
    with twice_is_now(end_at_once):
        try:
            cores = len(os.sched_getaffinity(0))
            sweep = swept(sweep, jobs, at_once or cores, timeout, json_path, dump)
        except KeyboardInterrupt as stopped:
            kept = (
                f"{json_path} has what is done; go on with --resume"
                if json_path
                else "nothing is kept; --json FILE keeps what is done"
            )
            click.echo(f"interrupted: {kept}", err=True)
            ctx.exit(stopped.status if isinstance(stopped, Stopped) else INTERRUPTED)
    print_sweep(sweep, Console())
    if json_path is not None:
        click.echo(f"sweep written to {json_path}", err=True)
    unproven = verify and any(model.message for model in sweep.models)
    ctx.exit(1 if unproven or not sweep.graphs else 0)


def swept(
    sweep: Sweep,
    jobs: list[Job],
    at_once: int,
    timeout: float,
    json_path: Path | None,
    dump: Path | None = None,
) -> Sweep:
    """Runs the sweep with its progress on stderr: a line for each model that ends."""
    from ..sweep import file
    from ..sweep.run import run
    from .sweep_tables import ended_text

    with counted() as progress:
        done = sum(sweep.has(job) for job in jobs)
        task = progress.add_task("sweeping", total=len(jobs), completed=done)

        def ended(so_far: Sweep, model: ModelRow) -> None:
            if json_path is not None:
                file.SWEEP.save(so_far, json_path)
            progress.advance(task)
            graphs = len(so_far.graphs_of(model))
            progress.console.print(
                ended_text(model, graphs), markup=False, highlight=False, soft_wrap=True
            )

        folder = "" if dump is None else str(dump.resolve())
        return run(sweep, jobs, at_once=at_once, timeout=timeout, dump=folder, ended=ended)
