"""PyTorch's own tests of Inductor, run with stock and with a policy on.

Takes a checkout that the user has; nothing of it is copied.  Each file runs in a process of its
own, twice; a test that crashes or hangs ends its process, and the next process goes on behind
it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .core.policy import STOCK, Policy
from .errors import TargetError
from .pytest_plugin import COUNTED, OUTCOMES, read_events
from .versions import installed_versions

__all__ = ["BYTE_COUNTS", "Change", "Outcome", "UpstreamRun", "find_tests", "run", "to_json"]

SCHEMA = "torch-materialize/upstream-tests"
VERSION = 1

#: Test files whose expected numbers are bytes, or tensor elements, that kernels move.
BYTE_COUNTS = ("test_perf.py",)
_FINE = frozenset({"passed", "skipped", "xfailed", "xpassed"})
# How often a running test's clock is looked at.
_TICK = 0.2
# Importing torch and a test file is not a test's time.
_START_SECONDS = 300.0
# What pytest returns where it ran the tests, whether or not they passed, or found none.
_RAN = (0, 1, 5)


@dataclass(frozen=True)
class Outcome:
    """How one test ended.

    Attributes:
        outcome: ``passed``, ``failed``, ``error``, ``skipped``, ``xfailed``, ``xpassed``,
            ``crashed`` (its process died), ``timeout`` or ``missing`` (it did not run).
        numbers: (expected, found) byte counts, in the order in which the test looks at them.
    """

    outcome: str
    message: str = ""
    seconds: float = 0.0
    numbers: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Change:
    """A test that ends otherwise under the policy; ``how`` says in which way."""

    test: str
    how: str
    stock: str
    policy: str
    message: str = ""

    @property
    def is_worse(self) -> bool:
        """Whether the policy is to blame for something."""
        return self.how in ("worse", "more bytes")


@dataclass
class UpstreamRun:
    """Both runs over the chosen files, by test; ``warnings`` are ours, under the policy."""

    policy: Policy
    files: tuple[str, ...]
    stock: dict[str, Outcome] = field(default_factory=dict)
    governed: dict[str, Outcome] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def changes(self) -> list[Change]:
        """What differs, tests in the order of the files."""
        tests = dict.fromkeys([*self.stock, *self.governed])
        missing = Outcome("missing")
        return [
            change
            for test in tests
            for change in _changes(
                test, self.stock.get(test, missing), self.governed.get(test, missing)
            )
        ]

    @property
    def got_worse(self) -> bool:
        """Whether any test got worse, or none ran at all."""
        return not self.stock or any(change.is_worse for change in self.changes())


def _changes(test: str, stock: Outcome, ours: Outcome) -> Iterator[Change]:
    if stock.outcome != ours.outcome:
        fine = stock.outcome in _FINE, ours.outcome in _FINE
        how = {(True, False): "worse", (False, True): "better"}.get(fine, "other")
        yield Change(test, how, stock.outcome, ours.outcome, ours.message)
    elif len(stock.numbers) != len(ours.numbers):
        counts = f"{len(stock.numbers)} byte counts", f"{len(ours.numbers)}"
        yield Change(test, "other", *counts)
    for (_, before), (_, after) in zip(stock.numbers, ours.numbers, strict=False):
        if before != after:
            how = "fewer bytes" if after < before else "more bytes"
            yield Change(test, how, str(before), str(after))


def find_tests(checkout: Path, files: Sequence[str]) -> list[Path]:
    """The test files in a checkout of PyTorch, or in a folder of tests.

    Raises:
        TargetError: there is no such folder or file.
    """
    folder = checkout / "test" / "inductor"
    if not folder.is_dir():
        folder = checkout
    found = [folder / name for name in files]
    for path in found:
        if not path.is_file():
            raise TargetError(
                f"{path}: no such test file. Expected CHECKOUT to be a checkout of PyTorch (with "
                f"test/inductor) or a folder of test files; found "
                f"{'no folder' if not checkout.is_dir() else 'a folder without it'}."
            )
    return found


def run(
    files: Sequence[Path],
    policy: Policy,
    *,
    timeout: float = 300.0,
    select: str = "",
    byte_counts: Sequence[str] = BYTE_COUNTS,
    step: Callable[[str], None] = lambda _text: None,
) -> UpstreamRun:
    """Runs every file with stock and with ``policy``.

    Args:
        timeout: seconds for one test.
        select: as pytest's ``-k``.
        byte_counts: names of files whose expected numbers are bytes.
        step: is told what runs next.

    Raises:
        TargetError: pytest does not start.
    """
    started = time.monotonic()
    result = UpstreamRun(policy, tuple(path.name for path in files))
    for path in files:
        for chosen, outcomes in ((STOCK, result.stock), (policy, result.governed)):
            step(f"{path.name} under {chosen}")
            with tempfile.TemporaryDirectory(prefix="torch-materialize-") as scratch:
                process = _File(path, chosen, Path(scratch), timeout, select, byte_counts)
                outcomes.update(process.run())
                if chosen is policy:
                    result.warnings += process.warnings
    result.seconds = round(time.monotonic() - started, 1)
    return result


class _File:
    """One file under one policy, in as many processes as it takes."""

    def __init__(
        self,
        path: Path,
        policy: Policy,
        scratch: Path,
        timeout: float,
        select: str,
        byte_counts: Sequence[str],
    ) -> None:
        self._path = path
        self._timeout = timeout
        self._events = scratch / "outcomes.jsonl"
        self._log = scratch / "output.txt"
        self._command = [sys.executable, "-m", "pytest", "-p", f"{__package__}.pytest_plugin"]
        self._command += ["-q", "-p", "no:cacheprovider", *(["-k", select] if select else [])]
        self._environment = _environment(policy, scratch, self._events, path, byte_counts)

    def run(self) -> dict[str, Outcome]:
        """Every test's outcome; ends, since each process ends one test at least."""
        while True:
            code, in_time = self._process()
            lost = self._unfinished()
            if lost is None:
                if not in_time or code not in _RAN:
                    self._end(self._path.name, "error" if in_time else "timeout", self._tail())
                break
            how = "crashed" if in_time else "timeout"
            self._end(lost, how, f"exit status {code}" if in_time else f"over {self._timeout} s")
        return {
            event["ended"]: Outcome(
                event["outcome"],
                event.get("message", ""),
                event.get("seconds", 0.0),
                tuple((a, b) for a, b in event.get("numbers", ())),
            )
            for event in read_events(self._events)
            if "ended" in event
        }

    @property
    def warnings(self) -> list[str]:
        """What torch-materialize warned of."""
        return [e["warning"] for e in read_events(self._events) if "warning" in e]

    def _process(self) -> tuple[int, bool]:
        """Runs one process: its exit status, and whether no test took too long."""
        with open(self._log, "wb") as log:
            process = subprocess.Popen(
                [*self._command, self._path.name],
                cwd=self._path.parent,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            since, size = time.monotonic(), self._size()
            allowed = max(self._timeout, _START_SECONDS)
            try:
                while process.poll() is None:
                    if self._size() != size:
                        since, size = time.monotonic(), self._size()
                        allowed = self._timeout
                    elif time.monotonic() - since > allowed:
                        return -signal.SIGKILL, False
                    time.sleep(_TICK)
                return process.returncode, True
            finally:
                # Its compile workers, too.
                _kill(process)

    def _size(self) -> int:
        return self._events.stat().st_size if self._events.exists() else 0

    def _unfinished(self) -> str | None:
        """The test that started and did not end."""
        events = list(read_events(self._events))
        ended = {event.get("ended") for event in events}
        started = [event["started"] for event in events if "started" in event]
        return next((test for test in started if test not in ended), None)

    def _end(self, test: str, outcome: str, message: str) -> None:
        """Writes down how a test ended whose process could not."""
        line = json.dumps({"ended": test, "outcome": outcome, "message": message})
        with open(self._events, "a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")

    def _tail(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-8:])


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it and what it started have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _environment(
    policy: Policy, scratch: Path, events: Path, path: Path, byte_counts: Sequence[str]
) -> Mapping[str, str]:
    """The user's environment, on CPU, with caches of its own and the checkout's helpers."""
    package = Path(__file__).parents[1]
    # Not the checkout itself: its torch is sources, and not what is installed.
    folders = [str(package), str(path.parents[1]), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, folders)),
        "TORCH_MATERIALIZE": str(policy),
        OUTCOMES: str(events),
        COUNTED: ",".join(byte_counts),
        "CUDA_VISIBLE_DEVICES": "",
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
    }


def to_json(result: UpstreamRun) -> dict[str, Any]:
    """The run as plain JSON values."""

    def outcomes(of: Mapping[str, Outcome]) -> dict[str, Any]:
        return {
            test: {
                "outcome": one.outcome,
                "seconds": one.seconds,
                "message": one.message,
                "numbers": [list(pair) for pair in one.numbers],
            }
            for test, one in of.items()
        }

    return {
        "schema": SCHEMA,
        "version": VERSION,
        "policy": str(result.policy),
        "files": list(result.files),
        "seconds": result.seconds,
        "versions": dict(installed_versions()),
        "warnings": result.warnings,
        "changes": [vars(change) for change in result.changes()],
        "stock": outcomes(result.stock),
        "governed": outcomes(result.governed),
    }
