"""One file of tests under one policy, in as many processes as it takes.

A test that crashes or hangs ends its process, and the next process goes on behind it.  Every
event is on disk when it happens (:mod:`.plugin`) and is read while the process runs.
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
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch_materialize
from torch_materialize.core.policy import Policy
from upstream.plugin import COUNTED, DEVICE, OUTCOMES, read_events

__all__ = ["TestFile", "TestOutcome"]

# How often a running test's clock is looked at, in seconds.
_TICK = 0.2
# Importing torch and a test file is not a test's time.
_START_SECONDS = 300.0
# What pytest returns where it ran the tests, whether or not they passed, or found none.
_RAN = (0, 1, 5)


@dataclass(frozen=True)
class TestOutcome:
    """How one test ended.

    Attributes:
        outcome: ``passed``, ``failed``, ``error``, ``skipped``, ``xfailed``, ``xpassed``,
            ``crashed`` (its process died), ``timeout`` or ``missing`` (it did not run).
        message: of one that failed: the exception with its message, then the test's line.
        seconds: wall time.
        numbers: (expected, found) byte counts, in the order in which the test looks at them.
        graphs: graphs that were planned in it.
        acted: of them, those in which the plan is another choice than stock's.
    """

    __test__ = False  # its name is no test's, pytest

    outcome: str
    message: str = ""
    seconds: float = 0.0
    numbers: tuple[tuple[int, int], ...] = ()
    graphs: int = 0
    acted: int = 0

    @property
    def headline(self) -> str:
        """The first line of the message; the outcome where there is none."""
        return next((line for line in self.message.splitlines() if line.strip()), self.outcome)


class TestFile:
    """One file of tests under one policy on one device."""

    __test__ = False  # its name is no test's, pytest

    def __init__(
        self,
        path: Path,
        policy: Policy,
        device: str,
        select: str,
        timeout: float,
        byte_counts: Sequence[str],
    ) -> None:
        self._path = path
        self._policy = policy
        self._device = device
        self._timeout = timeout
        self._byte_counts = byte_counts
        self._command = [sys.executable, "-m", "pytest", "-p", "upstream.plugin"]
        self._command += ["-q", "-p", "no:cacheprovider", *(["-k", select] if select else [])]
        self.warnings: list[str] = []

    def run(
        self,
        outcomes: MutableMapping[str, TestOutcome],
        heard: Callable[[int, bool], None],
        stopped: Callable[[], bool],
    ) -> bool:
        """Adds every test's outcome to ``outcomes``; what is there already is not run again.

        Ends, since each process ends one test at least.  ``heard`` is told how many tests there
        are when one has ended.  False: it was ``stopped``, and nothing of it runs any more.
        """
        with tempfile.TemporaryDirectory(prefix="torch-materialize-") as scratch:
            events = _Events(Path(scratch, "outcomes.jsonl"), outcomes, self.warnings, heard)
            log = Path(scratch, "output.txt")
            while True:
                code = self._process(events, log, stopped)
                if code is _STOPPED:
                    return False
                lost, in_time = events.unfinished, code is not _TOO_LONG
                if lost is None:
                    if not in_time or (code not in _RAN and not events.uncollected):
                        how = "error" if in_time else "timeout"
                        events.end(self._path.name, how, _tail(log))
                    return True
                why = f"exit status {code}" if in_time else f"over {self._timeout:g} s"
                events.end(lost, "crashed" if in_time else "timeout", why)

    def _process(self, events: _Events, log: Path, stopped: Callable[[], bool]) -> int | _Ending:
        """Runs one process: its exit status, or why it was ended."""
        if stopped():
            return _STOPPED
        with open(log, "wb") as output:
            process = subprocess.Popen(
                [*self._command, self._path.name],
                cwd=self._path.parent,
                env=self._environment(log.parent, events.path),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A group of its own, so that what it starts ends with it.
                start_new_session=True,
            )
            since, allowed = time.monotonic(), max(self._timeout, _START_SECONDS)
            try:
                while process.poll() is None:
                    if stopped():
                        return _STOPPED
                    if events.read():
                        since, allowed = time.monotonic(), self._timeout
                    elif time.monotonic() - since > allowed:
                        return _TOO_LONG
                    time.sleep(_TICK)
                return process.returncode
            finally:
                _kill(process)  # its compile workers, too
                events.read()

    def _environment(self, scratch: Path, events: Path) -> Mapping[str, str]:
        """The user's environment, on the device, with caches of its own and upstream's helpers."""
        ours = [str(Path(__file__).parents[1]), str(Path(torch_materialize.__file__).parents[1])]
        # Not the checkout itself: its torch is sources, and not what is installed.
        folders = [*ours, str(self._path.parents[1]), os.environ.get("PYTHONPATH", "")]
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if self._device == "cpu" else {}
        return {
            **os.environ,
            **hidden,
            "PYTHONPATH": os.pathsep.join(filter(None, folders)),
            "TORCH_MATERIALIZE": str(self._policy),
            OUTCOMES: str(events),
            COUNTED: ",".join(self._byte_counts),
            DEVICE: self._device,
            # Upstream's own: which of its tests by device there are, and no advice in messages.
            "PYTORCH_TESTING_DEVICE_ONLY_FOR": self._device,
            "PYTORCH_PRINT_REPRO_ON_FAILURE": "0",
            "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        }


class _Ending:
    """Why a process was ended that had not ended by itself."""


_STOPPED, _TOO_LONG = _Ending(), _Ending()


class _Events:
    """What the processes of one file write down, as it comes."""

    def __init__(
        self,
        path: Path,
        outcomes: MutableMapping[str, TestOutcome],
        warnings: list[str],
        heard: Callable[[int, bool], None],
    ) -> None:
        self.path = path
        #: The test that started and has not ended.
        self.unfinished: str | None = None
        #: Whether a file could not be imported, which is an outcome of its own.
        self.uncollected = False
        self._outcomes = outcomes
        self._warnings = warnings
        self._heard = heard
        self._total = 0
        self._size = 0
        self._write(*({"known": test} for test in outcomes))
        self._read = len(outcomes)

    def read(self) -> bool:
        """Takes in what is new; whether there was anything."""
        size = self.path.stat().st_size
        if size == self._size:
            return False
        self._size = size
        events = list(read_events(self.path))
        new, self._read = events[self._read :], len(events)
        for event in new:
            self._take(event)
        return bool(new)

    def end(self, test: str, outcome: str, message: str) -> None:
        """Writes down how a test ended whose process could not."""
        self._write({"ended": test, "outcome": outcome, "message": message})
        self.read()

    def _take(self, event: dict[str, Any]) -> None:
        if "collected" in event:
            self._total = event["collected"]
        if "started" in event:
            self.unfinished = event["started"]
        if "warning" in event and event["warning"] not in self._warnings:
            self._warnings.append(event["warning"])
        if "ended" in event:
            test = event.pop("ended")
            self.unfinished = None if self.unfinished == test else self.unfinished
            self.uncollected |= "::" not in test
            numbers = tuple((a, b) for a, b in event.pop("numbers", ()))
            self._outcomes[test] = TestOutcome(**event, numbers=numbers)
            self._heard(self._total, False)

    def _write(self, *events: dict[str, str]) -> None:
        # A process that was killed may have left half a line.
        lines = "".join(f"\n{json.dumps(event)}\n" for event in events)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(lines)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it and what it started have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-8:])
