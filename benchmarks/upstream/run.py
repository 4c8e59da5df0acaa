"""PyTorch's own tests of Inductor, run with stock and with a policy on.

Takes a checkout that the user has; nothing of it is copied.  Each file runs twice, with stock and
with the policy, in a worker of pytest-xdist: another one takes over where a test crashes, or where
pytest-timeout ends one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click
import msgspec

import torch_materialize
from torch_materialize.core.policy import STOCK
from torch_materialize.errors import TargetError
from upstream.outcomes import TestOutcome, UpstreamRun, file_of
from upstream.plugin import OUTCOMES, events

__all__ = ["find_tests", "run"]

# How often a run that goes on is looked at, and how often what has ended is kept, in seconds.
_TICK, _KEEP = 0.2, 10.0
# What pytest returns where it ran the tests, whether or not they passed, or found none.
_RAN = (0, 1, 5)


def find_tests(checkout: Path, files: Sequence[str]) -> list[Path]:
    """The test files in a checkout of PyTorch, or in a folder of tests.

    Raises:
        TargetError: there is no such folder or file, or what runs them is not installed.
    """
    for module in ("pytest", "xdist", "pytest_timeout", "expecttest"):
        if importlib.util.find_spec(module) is None:
            then = "Install it with `pip install 'torch-materialize[test]'`."
            raise TargetError(f"upstream's tests need {module}; found none. {then}")
    folder = checkout / "test" / "inductor"
    found = [(folder if folder.is_dir() else checkout) / name for name in dict.fromkeys(files)]
    for path in found:
        if not path.is_file():
            raise TargetError(
                f"{path}: no such test file. Expected CHECKOUT to be a checkout of PyTorch (with "
                f"test/inductor) or a folder of test files; found "
                f"{'no folder' if not checkout.is_dir() else 'a folder without it'}."
            )
    return found


def run(
    result: UpstreamRun, files: Sequence[Path], timeout: float, stopped: Callable[[], bool]
) -> Iterator[None]:
    """Runs every file with stock and with the policy: ``result`` at each step has more outcomes.

    What ``result`` has already is not run again.  A file that proves nothing with stock is not
    run with the policy.

    Args:
        timeout: seconds for one test.
        stopped: is called some times a second; once true, the tests that run are ended, and the
            last step has what there is.
    """
    for path in files:
        for side in ("stock", "governed"):
            if (path.name, side) not in result.finished and not result.unproven(path.name):
                yield from _run_file(result, path, side, timeout, stopped)
                if stopped():
                    return


def _run_file(
    result: UpstreamRun, path: Path, side: str, timeout: float, stopped: Callable[[], bool]
) -> Iterator[None]:
    outcomes: dict[str, TestOutcome] = getattr(result, side)
    policy = STOCK if side == "stock" else result.policy
    started, before = time.monotonic(), result.seconds
    click.echo(f"{path.name} under {policy}:", err=True)
    with tempfile.TemporaryDirectory(prefix="torch-materialize-") as scratch:
        written = Path(scratch, "outcomes.jsonl")
        written.write_text("".join(json.dumps({"known": test}) + "\n" for test in outcomes))
        with _pytest(path, str(policy), result.device, result.select, timeout, written) as process:
            kept = started
            while process.poll() is None and not stopped():
                time.sleep(_TICK)
                if time.monotonic() - kept > _KEEP:
                    _take(written, result, outcomes, timeout)
                    kept = time.monotonic()
                    yield
            # Before what still runs is ended: no crash of a test's own.
            _take(written, result, outcomes, timeout)
    result.seconds = round(before + time.monotonic() - started, 1)
    if not stopped():
        result.finished.add((path.name, side))
        said = any(file_of(test) == path.name and "::" not in test for test in outcomes)
        if process.returncode not in _RAN and not said:
            why = f"pytest ended with exit status {process.returncode}; its output says why"
            outcomes[path.name] = TestOutcome("error", why)
    yield


def _take(
    written: Path, result: UpstreamRun, outcomes: dict[str, TestOutcome], timeout: float
) -> None:
    """Reads what has happened, from the start: an outcome is the same each time."""
    since = 0.0
    for event in events(written):
        match event:
            case {"started": _, "at": since}:
                pass
            case {"warning": text} if text not in result.warnings:
                result.warnings.append(text)
            case {"crashed": test, "at": at}:
                late = TestOutcome("timeout", f"over {timeout:g} s")
                crashed = TestOutcome("crashed", "its process ended")
                outcomes[test] = late if at - since >= timeout else crashed
            case {"ended": test, **how}:
                outcomes[test] = msgspec.convert(how, TestOutcome)


@contextlib.contextmanager
def _pytest(
    path: Path, policy: str, device: str, select: str, timeout: float, written: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A file's tests, as they run; with the block all that they started ends, too."""
    command = [sys.executable, "-m", "pytest", "-p", "upstream.plugin", "-p", "no:cacheprovider"]
    command += ["-q", "--no-header", "--no-summary"]
    # Of the ways to distribute, this one keeps the order of tests where a worker is replaced.
    command += ["-n", "1", "--dist", "worksteal", "--max-worker-restart", "1000000"]
    # By a thread, since compiled code that hangs lets no signal through.
    command += ["--timeout", str(timeout), "--timeout-method", "thread"]
    ours = [str(Path(__file__).parents[1]), str(Path(torch_materialize.__file__).parents[1])]
    # Not the checkout itself: its torch is sources, and not what is installed.
    folders = [*ours, str(path.parents[1]), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [*command, *(["-k", select] if select else []), path.name],
        cwd=path.parent,
        env={
            **os.environ,
            **({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}),
            "PYTHONPATH": os.pathsep.join(filter(None, folders)),
            "TORCH_MATERIALIZE": policy,
            OUTCOMES: str(written),
            # Upstream's own: which of its tests by device there are, and no advice in messages.
            "PYTORCH_TESTING_DEVICE_ONLY_FOR": device,
            "PYTORCH_PRINT_REPRO_ON_FAILURE": "0",
            "TORCHINDUCTOR_CACHE_DIR": str(written.with_name("inductor")),
        },
        stdin=subprocess.DEVNULL,
        stdout=2,  # pytest's own progress, beside what a command prints
        # A group of its own, so that what it starts ends with it: workers, compilers.
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):  # it and what it started have ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
