"""PyTorch's own tests of Inductor, with stock and with a policy on.

``python benchmarks/upstream_tests.py CHECKOUT --file test_perf.py --json FILE``
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import click
from rich.console import Console

from torch_materialize.cli.command import Command
from torch_materialize.cli.options import file_to_write
from torch_materialize.cli.progress import counted
from torch_materialize.core.policy import parse
from upstream import file as kept_file
from upstream.run import Progress, UpstreamRun, find_tests, run
from upstream.show import ended_text, print_upstream

# How often the file is written while tests run, in seconds.
_KEEP = 10.0


@click.command(
    "upstream_tests", cls=Command, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.argument("checkout", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--file",
    "files",
    multiple=True,
    default=("test_perf.py",),
    show_default=True,
    help="A file of CHECKOUT/test/inductor. Repeatable.",
)
@click.option(
    "--policy",
    default="plan:limits=strong",
    show_default=True,
    help="What to compare with stock; plan:limits=random acts where no plan does, too.",
)
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    type=click.Choice(["cpu", "cuda"]),
    help="On cpu, what asks for a GPU without need gets the CPU.",
)
@click.option("-k", "select", default="", help="Only tests that match, as pytest's -k.")
@click.option(
    "--timeout",
    default=300.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Seconds for one test.",
)
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

    CHECKOUT is a checkout of PyTorch at the version that is installed; its tests need pytest
    and expecttest. Tests that end otherwise under the policy are reported, and how many graphs it
    acted in. Where test_perf.py expects a number of bytes, the policy's is compared with stock's:
    it may only go down.

    Ctrl-C and SIGTERM end what runs and keep what has ended; --resume goes on from there.

    Exit status: 0 when nothing got worse; 1 otherwise, when no test ran, or when most tests of a
    file fail with stock; 130 or 143 when stopped.
    """
    if resume and json_path is None:
        raise click.UsageError("--resume needs the file to go on with: --json FILE")
    chosen = parse(policy)
    found = find_tests(checkout.resolve(), files)
    result = UpstreamRun(chosen, tuple(path.name for path in found), device, select)
    if resume and json_path is not None:
        result = kept_file.resume(json_path, result)
    with _stop_signals() as received, _told(result, json_path) as told:
        run(result, found, timeout=timeout, told=told, stopped=lambda: bool(received))
    if json_path is not None:
        kept_file.RUN.save(result, json_path)
    print_upstream(result, Console())
    if received:
        _tell_stopped(received[0], json_path)
        ctx.exit(128 + received[0])
    ctx.exit(1 if result.got_worse else 0)


def _tell_stopped(number: int, json_path: Path | None) -> None:
    kept = "nothing is kept: there was no --json FILE"
    if json_path is not None:
        kept = f"what has ended is kept in {json_path}; go on with --resume"
    click.echo(f"stopped by {signal.Signals(number).name}: {kept}", err=True)


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """The signals to stop that came; a second one is no longer waited for.

    A flag and no exception, so that no process is left behind that had just been started.
    """
    received: list[int] = []
    before: dict[int, Any] = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)
    }

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _told(result: UpstreamRun, json_path: Path | None) -> Iterator[Callable[[Progress], None]]:
    """Progress on stderr, a line for each file that has run; the file is kept up to date."""
    with counted() as bar:
        task = bar.add_task("starting", total=None)
        kept = time.monotonic()

        def told(now: Progress) -> None:
            nonlocal kept
            failed = f", {now.failed} failed" if now.failed else ""
            text = f"{now.file} under {now.policy}{failed}"
            bar.update(task, description=text, completed=now.done, total=now.total)
            if now.ended:
                bar.console.print(ended_text(now), markup=False, highlight=False, soft_wrap=True)
            if json_path is not None and (now.ended or time.monotonic() - kept > _KEEP):
                kept_file.RUN.save(result, json_path)
                kept = time.monotonic()

        yield told


if __name__ == "__main__":
    main()
