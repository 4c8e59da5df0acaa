"""``torch-materialize upstream-tests``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from ..core.policy import parse
from ..record import write_json
from .options import file_to_write

__all__ = ["upstream_tests_command"]


@click.command("upstream-tests")
@click.argument("checkout", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--file",
    "files",
    multiple=True,
    default=("test_perf.py",),
    show_default=True,
    help="A file of CHECKOUT/test/inductor. Repeatable.",
)
@click.option("--policy", default="plan", show_default=True, help="What to compare with stock.")
@click.option("-k", "select", default="", help="Only tests that match, as pytest's -k.")
@click.option(
    "--timeout",
    default=300.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Seconds for one test.",
)
@file_to_write("--json", "Write every outcome (docs/record.md) to this file.")
@click.pass_context
def upstream_tests_command(
    ctx: click.Context,
    checkout: Path,
    files: tuple[str, ...],
    policy: str,
    select: str,
    timeout: float,
    json_path: Path | None,
) -> None:
    """Run PyTorch's own tests of Inductor on CPU, with stock and with a policy on.

    CHECKOUT is a checkout of PyTorch at the version that is installed; its tests need pytest
    and expecttest. Tests that end otherwise under the policy are reported. Where test_perf.py
    expects a number of bytes, the policy's is compared with stock's: it may only go down.

    Exit status: 0 when nothing got worse, 1 otherwise, or when no test ran.
    """
    from ..report.upstream import print_upstream
    from ..upstream import find_tests, run, to_json

    chosen = parse(policy)
    found = find_tests(checkout.resolve(), files)
    result = run(
        found,
        chosen,
        timeout=timeout,
        select=select,
        step=lambda text: click.echo(f"running {text}", err=True),
    )
    print_upstream(result, Console())
    if json_path is not None:
        write_json(json_path, to_json(result))
    ctx.exit(1 if result.got_worse else 0)
