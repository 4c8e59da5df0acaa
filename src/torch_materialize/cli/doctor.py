"""``torch-materialize doctor``."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from ..core.policy import STOCK, parse
from ..environment import VARIABLE, asked
from ..errors import UnknownPolicyError
from ..versions import triton_to_install

if TYPE_CHECKING:
    from ..inductor.hooks.diagnose import Diagnosis

__all__ = ["doctor_command"]

_FEATURES = ("policy", "compare", "pins", "tune")


@click.command("doctor")
@click.option(
    "--import",
    "modules",
    multiple=True,
    metavar="MODULE",
    help="Import a module first, to see what it patches (for example vllm). Repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.pass_context
def doctor_command(ctx: click.Context, modules: tuple[str, ...], as_json: bool) -> None:
    """Show whether torch-materialize can work here, and what it leans on.

    Exit status: 0 when every upstream object is as it was checked, 1 otherwise.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:
            raise click.ClickException(
                f"--import {module}: {type(error).__name__}: {error}"
            ) from error
    from ..inductor.hooks.diagnose import diagnose

    found = diagnose()
    if as_json:
        click.echo(json.dumps(_as_json(found), indent=1))
    else:
        _print(found, Console())
    ctx.exit(0 if all(found.works(feature) for feature in _FEATURES) else 1)


def _print(found: Diagnosis, console: Console) -> None:
    for name, version in found.versions.items():
        console.print(f"{name:18} {version}", highlight=False)
    console.print(f"{'device':18} {found.device}", highlight=False)
    console.print(f"{VARIABLE:18} {_written()}", highlight=False)
    problem = _unheard(found)
    if problem:
        console.print(f"{'':18} {problem}", highlight=False)
    active = [f"{policy}, set by {origin}" for policy, origin in found.active]
    console.print(f"{'active policy':18} {active[-1] if active else 'stock'}", highlight=False)
    for feature in _FEATURES:
        verdict = "works" if found.works(feature) else "DOES NOT WORK: see the rows with a cross"
        console.print(f"{feature:18} {verdict}", highlight=False)
    command = triton_to_install()
    if command:
        console.print(
            f"{'without Triton':18} bytes can be compared for any GPU; to see generated code "
            f"(`explain --code`) and to compile for a GPU: {command}",
            highlight=False,
        )
    table = Table(
        title="Upstream objects", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD
    )
    table.add_column("", no_wrap=True)
    table.add_column("object", overflow="fold", ratio=1)
    table.add_column("use", no_wrap=True)
    table.add_column("as seen in torch", overflow="fold")
    for finding in found.findings:
        state = finding.problem or finding.known_from
        if finding.replaced_by:
            state += f"; replaced by {finding.replaced_by}"
        mark = "[red]✗[/red]" if finding.problem else "[green]✓[/green]"
        table.add_row(
            mark, finding.seam.path.replace("torch._inductor.", ""), finding.seam.use.value, state
        )
    console.print(table)


def _unheard(found: Diagnosis) -> str:
    """Why what the environment asks for is not what is active here; "" where it is."""
    name = asked(STOCK.name).name
    if name == STOCK.name or found.active:
        return ""
    try:
        chosen = parse(name)
    except UnknownPolicyError as error:
        return f"is ignored: {error}"
    return (
        f"policy {chosen} in a program that says `import torch_materialize.auto` at its start, in "
        'vLLM, and for torch.compile(backend="materialize")'
    )


def _written() -> str:
    """The variable's text, and what it means where it turns everything off."""
    wanted = asked(STOCK.name)
    if wanted.written is None:
        return "not set"
    return f"{wanted.written!r}: off" if wanted.name == STOCK.name else wanted.written


def _as_json(found: Diagnosis) -> dict[str, Any]:
    return {
        "versions": found.versions,
        "device": found.device,
        "active": [{"policy": policy, "set_by": origin} for policy, origin in found.active],
        "hooks_installed": found.hooks_installed,
        "works": {feature: found.works(feature) for feature in _FEATURES},
        "objects": [
            {
                "path": f.seam.path,
                "use": f.seam.use.value,
                "why": f.seam.why,
                "removable_when": f.seam.until,
                "known_from": f.known_from,
                "problem": f.problem,
                "replaced_by": f.replaced_by,
            }
            for f in found.findings
        ],
    }
