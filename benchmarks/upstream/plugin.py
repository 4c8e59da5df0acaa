"""What runs inside of pytest: the policy is on, and all that happens is a line of JSON in a file.

``python -m pytest -p upstream.plugin FILE`` with ``TORCH_MATERIALIZE`` naming the policy and
``TORCH_MATERIALIZE_OUTCOMES`` the file; without the latter nothing is written.  Tests whose
outcome the file has (``known``) are left out.  With ``-n 1`` the tests run in a worker of
pytest-xdist, which starts another one where a test takes its process with it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from torch_materialize.events import counted, log

__all__ = ["OUTCOMES", "events"]

#: The variable that names the file to write to.
OUTCOMES = "TORCH_MATERIALIZE_OUTCOMES"
# Test files whose expected numbers are bytes, or tensor elements, that kernels move.
_BYTE_COUNTS = ("test_perf.py",)
# What an import of torch and of a test file may take.
_IMPORT_SECONDS = 300.0
# Lines of a failure that are kept.
_LINES = 12
# The worst of a test's phases is its outcome.
_WORSE = ("passed", "xpassed", "xfailed", "skipped", "failed", "error")


def events(path: Path) -> Iterator[dict[str, Any]]:
    """The events in a file; a line that a killed process left half-written is none."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            yield json.loads(line)


def _write(**event: Any) -> None:
    if name := os.environ.get(OUTCOMES):
        with open(name, "a", encoding="utf-8") as file:
            file.write(f"\n{json.dumps(event)}\n")  # apart from a line that is half-written


def pytest_configure(config: pytest.Config) -> None:
    """Puts the policy on before any test file can import what it replaces."""
    path = Path(os.environ.get(OUTCOMES) or os.devnull)
    if path.is_dir() or not path.parent.is_dir():
        found = "a folder" if path.is_dir() else "no such folder"
        raise pytest.UsageError(
            f"{OUTCOMES}={path}: expected a file to write to, found {found}. Name another one."
        )
    if config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Controller())
        return
    from torch_materialize import auto  # noqa: F401 - it enables what the environment names

    warned = logging.Handler(logging.WARNING)
    warned.emit = lambda record: _write(warning=record.getMessage())
    log.addHandler(warned)
    if os.environ.get("PYTORCH_TESTING_DEVICE_ONLY_FOR") == "cpu":
        # Upstream's files name the GPU by this constant, "cuda" where there is none, and
        # test_perf.py puts all of its tensors there, though it needs no GPU.
        with contextlib.suppress(ImportError):  # the test files say why
            from torch.testing._internal import inductor_utils

            if hasattr(inductor_utils, "GPU_TYPE"):
                inductor_utils.GPU_TYPE = "cpu"
    # An import that hangs is no test, and has no other clock.
    faulthandler.dump_traceback_later(_IMPORT_SECONDS, exit=True, file=sys.__stderr__)
    config.pluginmanager.register(_Worker())


class _Controller:
    """Sees workers end: the test that one was running, or that it cannot even find tests."""

    def __init__(self) -> None:
        self._collected: set[Any] = set()

    def pytest_xdist_node_collection_finished(self, node: Any) -> None:
        self._collected.add(node)

    def pytest_handlecrashitem(self, crashitem: str) -> None:
        _write(crashed=crashitem, at=time.monotonic())

    def pytest_testnodedown(self, node: Any, error: object | None) -> None:
        if error and node not in self._collected:
            pytest.exit("the process ended while it imported the tests", returncode=3)


class _Worker:
    """Runs the tests and writes down how each ends."""

    def __init__(self) -> None:
        # Seconds, outcome and message of each phase of the test that runs.
        self._phases: list[tuple[float, str, str]] = []
        # (expected, found) of the byte counts that it has looked at.
        self._numbers: list[tuple[int, int]] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leaves out what is known, and notes byte counts in the files that have them."""
        faulthandler.cancel_dump_traceback_later()
        path = Path(os.environ.get(OUTCOMES) or os.devnull)
        known = {event.get("known") for event in events(path)}
        items[:] = [item for item in items if item.nodeid not in known]
        for item in items:
            if item.path.name in _BYTE_COUNTS:
                self._note_numbers(getattr(item, "cls", None))

    def _note_numbers(self, case: Any) -> None:
        """Where a test expects a number, notes what it finds and goes on, whatever that is.

        Stock's number and a policy's are then compared with each other, for every expectation of
        the test and not up to the first that fails.
        """
        upstream: Callable[..., None] | None = getattr(case, "assertExpectedInline", None)
        if upstream is None or hasattr(upstream, "__wrapped__"):
            return

        @functools.wraps(upstream)
        def assertExpectedInline(one: Any, actual: object, expect: str, skip: int = 0) -> None:
            try:
                self._numbers.append((int(expect), int(str(actual))))
            except ValueError:
                upstream(one, actual, expect, skip + 1)

        case.assertExpectedInline = assertExpectedInline

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be imported is an error of its own."""
        if report.failed:
            lines = report.longreprtext.splitlines()[-_LINES:]
            errors = [line.removeprefix("E").strip() for line in lines if line.startswith("E ")]
            _write(ended=report.nodeid, outcome="error", message="\n".join(errors or lines))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Starts before pytest-timeout's clock: what that ended has taken longer by this one."""
        self._phases, self._numbers = [], []
        planned, acted = counted()
        _write(started=item.nodeid, at=time.monotonic())
        result = yield
        _, outcome, message = max(self._phases, key=lambda phase: _WORSE.index(phase[1]))
        _write(
            ended=item.nodeid,
            outcome=outcome,
            message=message,
            seconds=round(sum(seconds for seconds, _, _ in self._phases), 3),
            numbers=self._numbers,
            graphs=counted()[0] - planned,
            acted=counted()[1] - acted,
        )
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One of set-up, call and tear-down."""
        outcome: str = report.outcome
        if report.failed and report.when != "call":
            outcome = "error"
        elif hasattr(report, "wasxfail"):
            outcome = "xfailed" if report.skipped else "xpassed"
        self._phases.append((report.duration, outcome, _message(report)))


def _message(report: pytest.TestReport) -> str:
    """Of a failure, the exception with what it says, and the line of the test that it is from.

    Not the last lines: those are upstream's advice, or where the comparison was made.
    """
    if report.passed:
        return ""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else report.longreprtext
    said = [line for line in text.splitlines() if line.strip()][:_LINES]
    file = report.nodeid.partition("::")[0]
    # As pytest writes it, and as Python does.
    name = re.escape(file.rpartition("/")[2])
    lines = re.findall(rf'{name}(?::|", line )(\d+)', report.longreprtext)
    return "\n".join([*said, *(f"{file}:{line}" for line in lines[-1:])])
