"""``torch-materialize doctor``."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from .options import verbose

if TYPE_CHECKING:
    from ..inductor.hooks.diagnose import Finding
    from ..jobs.checkup import Checkup

__all__ = ["doctor_command"]


@click.command("doctor")
@click.option(
    "--import",
    "modules",
    multiple=True,
    metavar="MODULE",
    help="Import a module first, to see what it patches (for example vllm). Repeatable.",
)
@verbose("Also versions, settings, caches, and every upstream object that we lean on.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all of that.")
@click.pass_context
def doctor_command(
    ctx: click.Context, /, modules: tuple[str, ...], verbose: bool, as_json: bool
) -> None:
    """Say whether torch-materialize can work here, and what mends what is wrong.

    Exit status: 0 when every upstream object is as it was checked, 1 otherwise.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:
            raise click.ClickException(
                f"--import {module}: {type(error).__name__}: {error}"
            ) from error
    from ..jobs.checkup import FEATURES, checkup

    found = checkup()
    if as_json:
        click.echo(json.dumps(_as_json(found), indent=1))
    else:
        print_checkup(found, Console(), verbose)
    ctx.exit(0 if all(found.works(feature) for feature in FEATURES) else 1)


def print_checkup(found: Checkup, console: Console, verbose: bool = False) -> None:
    """Prints the verdict, what is wrong with its mend, and with ``verbose`` all that was seen."""
    from ..jobs.checkup import CheckupState
    from ..report.tables import say, words

    say(console, found.sentence())
    for problem in found.problems:
        console.print()
        say(console, f"{'Problem' if problem.is_serious else 'Note'}: {problem.what}")
        say(console, f"Mend: {problem.mend}")
    if found.state is not CheckupState.BROKEN:
        console.print()
        say(
            console,
            "Next: torch-materialize compare my_model.py:build, or a built-in model: "
            "torch-materialize compare llama-3.1-8b --layers 4",
        )
    if not verbose:
        return
    console.print()
    table = Table.grid(padding=(0, 2, 0, 0))
    words(table, "", "")
    for name, text in {**found.versions, **found.facts}.items():
        table.add_row(name, text)
    console.print(table, markup=False, highlight=False)
    if found.diagnosis is not None:
        _print_objects(found.diagnosis.findings, console)


def _print_objects(findings: tuple[Finding, ...], console: Console) -> None:
    from ..report.tables import plain_table, show, words

    table = plain_table("Upstream objects")
    words(table, "", "object", "use", "as seen in torch")
    for finding in findings:
        state = finding.problem or finding.known_from
        if finding.replaced_by:
            state += f"; replaced by {finding.replaced_by}"
        path = finding.seam.path.replace("torch._inductor.", "")
        table.add_row("no" if finding.problem else "ok", path, finding.seam.use.value, state)
    show(console, table)


def _as_json(found: Checkup) -> dict[str, Any]:
    from ..jobs.checkup import FEATURES

    seen = found.diagnosis
    active = seen.active if seen is not None else ()
    return {
        "verdict": {"state": found.state.value, "text": found.sentence()},
        "problems": [asdict(problem) for problem in found.problems],
        "versions": found.versions,
        "facts": found.facts,
        "device": found.facts.get("device"),
        "active": [{"policy": policy, "set_by": origin} for policy, origin in active],
        "hooks_installed": seen is not None and seen.hooks_installed,
        "works": {feature: found.works(feature) for feature in FEATURES},
        "objects": [
            {
                "path": f.seam.path,
                "use": f.seam.use.value,
                "why": f.seam.why,
                "removable_when": f.seam.until,
                "known_from": f.known_from,
                "problem": f.problem,
                "replaced_by": f.replaced_by,
                "owner": f.owner,
            }
            for f in (seen.findings if seen is not None else ())
        ],
    }
