"""PyTorch's own tests of Inductor, with stock and with a policy on.

``python benchmarks/upstream_tests.py CHECKOUT --file test_perf.py --json FILE``
"""

from __future__ import annotations

import contextlib
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from torch_materialize.cli.command import Command
from torch_materialize.cli.options import file_to_write
from torch_materialize.core.policy import LIMITS, parse
from upstream import outcomes
from upstream.outcomes import RUN, Change, UpstreamRun
from upstream.run import find_tests, run

# Tests that fail with both and are listed; the file of the run has all.
_LISTED = 20
_LIMIT = click.FloatRange(0, min_open=True)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True}
_FILE = "A file of CHECKOUT/test/inductor. Repeatable."
_POLICY = "What to compare with stock; plan:limits=random acts where no plan does, too."
_DEVICE = "On cpu, what names a GPU without need gets the CPU."


@click.command("upstream_tests", cls=Command, context_settings=_SETTINGS)
@click.argument("checkout", type=_FOLDER)
@click.option("--file", "files", multiple=True, default=("test_perf.py",), help=_FILE)
@click.option("--policy", default="plan:limits=strong", help=_POLICY)
@click.option("--device", default="cpu", type=click.Choice(["cpu", "cuda"]), help=_DEVICE)
@click.option("-k", "select", default="", help="Only tests that match, as pytest's -k.")
@click.option("--timeout", default=300.0, type=_LIMIT, help="Seconds for one test.")
@file_to_write("--json", "Keep every outcome (docs/record.md) in this file, as tests end.")
@click.option("--resume", is_flag=True, help="Go on with the file of --json.")
@click.pass_context
def main(
    ctx: click.Context,
    checkout: Path,
    files: tuple[str, ...],
    policy: str,
    device: str,
    select: str,
    timeout: float,
    json_path: Path | None,
    resume: bool,
) -> None:
    """Run PyTorch's own tests of Inductor, with stock and with a policy on.

    CHECKOUT is a checkout of PyTorch at the version that is installed; its tests need what
    `pip install 'torch-materialize[test]'` installs. Tests that end otherwise under the policy are
    reported, and how many graphs it acted in. Where test_perf.py expects a number of bytes, the
    policy's is compared with stock's: it may only go down.

    Ctrl-C and SIGTERM end what runs and keep what has ended; --resume goes on from there.

    Exit status: 0 when nothing got worse; 1 otherwise, when no test ran, or when most tests of a
    file fail with stock; 130 or 143 when stopped.
    """
    if resume and json_path is None:
        raise click.UsageError("--resume needs the file to go on with: --json FILE")
    found = find_tests(checkout.resolve(), files)
    result = UpstreamRun(parse(policy), tuple(path.name for path in found), device, select)
    if resume and json_path is not None:
        result = outcomes.resume(json_path, result)
    with _stop_signals() as received:
        for _ in run(result, found, timeout, lambda: bool(received)):
            if json_path is not None:
                RUN.save(result, json_path)
    console, changes = Console(), result.changes()
    if changes:
        console.print(_table(result, changes))
    lines = "\n".join(_lines(result, changes))
    console.print(lines, markup=False, highlight=False, soft_wrap=True)
    if received:
        kept = f"what has ended is kept in {json_path}; go on with --resume"
        kept = kept if json_path else "nothing is kept: there was no --json FILE"
        click.echo(f"stopped by {signal.Signals(received[0]).name}: {kept}", err=True)
        ctx.exit(128 + received[0])
    ctx.exit(1 if result.got_worse else 0)


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """The signals to stop that came, instead of an exception in the midst of starting pytest."""
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _frame: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _table(run: UpstreamRun, changes: list[Change]) -> Table:
    table = Table(title=f"Tests that change under {run.policy}", title_justify="left")
    for name in ("test", "how", "stock", str(run.policy)):
        table.add_column(name, overflow="fold")
    for change in changes:
        cells = map(escape, (change.test, change.how, change.stock, change.policy))
        table.add_row(*cells, style="red" if change.is_worse else "")
    return table


def _lines(run: UpstreamRun, changes: list[Change]) -> Iterator[str]:
    """What got worse, what fails anyway, and one line of counts for each side."""
    worse = [change for change in changes if change.is_worse]
    yield from (f"\n{change.test}\n{change.message}" for change in worse if change.message)
    failing = run.failing_with_both()
    if failing:
        yield f"\n{len(failing)} tests fail with both:"
    yield from (f"  {test}: {one.headline}" for test, one in list(failing.items())[:_LISTED])
    if len(failing) > _LISTED:
        yield f"  and {len(failing) - _LISTED} more, which --json names"
    for name, ended in (("stock", run.stock), (str(run.policy), run.governed)):
        counts = sorted(Counter(one.outcome for one in ended.values()).items())
        yield f"{name}: {', '.join(f'{n} {outcome}' for outcome, n in counts) or 'no test ran'}"
    yield from (f"warned: {warning}" for warning in run.warnings)
    planned, acted = run.graphs
    yield f"{run.policy} acted in {acted} of {planned} graphs"
    if planned and not acted and run.policy.limits != "random":
        stronger = [f"limits={x}" for x in LIMITS if x not in ("usual", run.policy.limits)]
        yield f"What passes is no test of it. Try {' or '.join(stronger)}."
    for name in run.files:
        if why := run.unproven(name):
            yield (
                f"error: {name} proves nothing on {run.device}: {why}. Choose tests that pass "
                "with stock (--device, --file, -k), at the version of this torch."
            )
    yield f"{len(changes)} changed, {len(worse)} of them for the worse; {run.seconds:.0f} s"


if __name__ == "__main__":
    main()
