"""``torch-materialize plan``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from .options import dump_graphs, saving, target_options
from .progress import hush_upstream, steps

if TYPE_CHECKING:
    from ..core.policy import Policy
    from ..jobs.plan import Planned

__all__ = ["plan_command"]


@click.command("plan")
@click.argument("target", required=False)
@target_options
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the plan files, and what TARGET moves with them, into this folder.",
)
@dump_graphs
@click.option(
    "--check",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    help="Fail where TARGET moves more bytes than the files in this folder claim.",
)
@click.option(
    "--diff",
    nargs=2,
    type=click.Path(exists=True, path_type=Path),
    metavar="A B",
    help="Show what two folders of plan files, or two plan files, decide otherwise.",
)
def plan_command(
    target: str | None,
    policies: tuple[str, ...],
    device: str,
    output: Path | None,
    check: Path | None,
    diff: tuple[Path, Path] | None,
    **how: Any,
) -> None:
    """Plan TARGET for a device, which need not be there, and keep the plans as files.

    TARGET is what `compare` takes. A compile that gets the folder, by TORCH_MATERIALIZE_PLANS or
    tm.options("plan", plans=...), goes by the files without a search; each is checked by one trial
    lowering, and a graph without one is searched.

    With --check, for CI: exit status 1 where a changed model moves more bytes than was claimed,
    with the lines that do. With --diff A B, no TARGET: what was decided otherwise, by line.
    """
    from ..jobs import plan as job
    from ..report.plans import print_changes, print_growths, print_planned
    from ..results.plan_changes import changes

    if diff:
        if target or output or check:
            raise click.UsageError("--diff A B takes no TARGET and no other folder")
        print_changes(changes(*diff), Console())
        return
    if target is None or (output is None) == (check is None):
        raise click.UsageError("name TARGET and one of -o FOLDER and --check FOLDER; or --diff A B")
    policy = job.the_policy(policies)
    if check is not None:
        grown = _checked(target, policy, device, check, how)
        print_growths(grown, target, check, Console())
        click.get_current_context().exit(1 if grown else 0)
    planned = _planned(target, policy, device, how)
    print_planned(planned.plans, planned.claims.graphs, Console())
    if output is not None:
        with saving(output):
            job.write(planned, output)


def _planned(target: str, policy: Policy, device: str, how: dict[str, Any]) -> Planned:
    from ..jobs import plan as job

    hush_upstream()
    with steps() as step:
        return job.plan_target(target, policy, device, step=step, **how)


def _checked(target: str, policy: Policy, device: str, folder: Path, how: dict[str, Any]) -> Any:
    from ..jobs import plan as job

    hush_upstream()
    with steps() as step:
        return job.check_target(target, policy, device, folder, step=step, **how)
