"""What ``upstream-tests`` runs inside of pytest: the policy on, and a line for all that happens.

``python -m pytest -p torch_materialize.pytest_plugin FILE`` with ``TORCH_MATERIALIZE`` naming the
policy and ``TORCH_MATERIALIZE_OUTCOMES`` the file to write to.  Each line is one JSON object and
is written when it happens: a JUnit file would be lost with a process that crashes.  Tests that
ended in an earlier process, by the same file, are left out.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

__all__ = ["COUNTED", "OUTCOMES", "read_events"]

#: The variable that names the file to write to.
OUTCOMES = "TORCH_MATERIALIZE_OUTCOMES"
#: The variable that names test files whose expected numbers are bytes, with commas between.
COUNTED = "TORCH_MATERIALIZE_BYTE_COUNTS"

# Seconds, outcome and message of the test that runs.
_phases: list[tuple[float, str, str]] = []
# (expected, found) of the byte counts that it has looked at.
_numbers: list[tuple[int, int]] = []


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The events in a file; a line that a killed process left half-written is none."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            yield event


def _tell(**event: Any) -> None:
    path = os.environ.get(OUTCOMES)
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")


class _Surprises(logging.Handler):
    """Passes on what torch-materialize warns of."""

    def emit(self, record: logging.LogRecord) -> None:
        _tell(warning=record.getMessage())


def pytest_configure() -> None:
    """Puts the policy on before any test file can import what it replaces."""
    from . import auto  # noqa: F401 - it enables what the environment names
    from .events import log

    log.addHandler(_Surprises(logging.WARNING))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what ended before, and notes byte counts in the files that have them."""
    ended = {e.get("ended") for e in read_events(Path(os.environ.get(OUTCOMES, "")))}
    items[:] = [item for item in items if item.nodeid not in ended]
    counted = os.environ.get(COUNTED, "").split(",")
    for item in items:
        if item.path.name in counted:
            _note_numbers(getattr(item, "cls", None))


def _note_numbers(case: Any) -> None:
    """Where a test expects a number, notes what it finds and goes on, whatever that is.

    Stock's number and a policy's are then compared with each other, for every expectation of
    the test and not up to the first that fails.
    """
    upstream: Callable[..., None] | None = getattr(case, "assertExpectedInline", None)
    if upstream is None or hasattr(upstream, "__wrapped__"):
        return

    @functools.wraps(upstream)
    def assertExpectedInline(self: Any, actual: object, expect: str, skip: int = 0) -> None:
        try:
            numbers = int(expect), int(str(actual))
        except ValueError:
            upstream(self, actual, expect, skip + 1)
            return
        _numbers.append(numbers)

    case.assertExpectedInline = assertExpectedInline


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A file that cannot be imported is an error of its own."""
    if report.failed:
        _tell(ended=report.nodeid, outcome="error", message=_message(report))


def pytest_runtest_logstart(nodeid: str) -> None:
    """A test that starts; without an end it took its process with it."""
    _phases.clear()
    _numbers.clear()
    _tell(started=nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """One of set-up, call and tear-down."""
    expected = hasattr(report, "wasxfail")
    outcome: str = report.outcome
    if report.failed and report.when != "call":
        outcome = "error"
    elif expected:
        outcome = "xfailed" if report.skipped else "xpassed"
    _phases.append((report.duration, outcome, _message(report)))


def pytest_runtest_logfinish(nodeid: str) -> None:
    """The worst of the phases is the outcome."""
    order = ("passed", "xpassed", "xfailed", "skipped", "failed", "error")
    _, outcome, message = max(_phases, key=lambda phase: order.index(phase[1]))
    seconds = sum(phase[0] for phase in _phases)
    _tell(
        ended=nodeid,
        outcome=outcome,
        message=message,
        seconds=round(seconds, 3),
        numbers=list(_numbers),
    )


def _message(report: pytest.CollectReport | pytest.TestReport) -> str:
    """The last lines of a failure."""
    return "" if report.passed else "\n".join(report.longreprtext.splitlines()[-8:])
