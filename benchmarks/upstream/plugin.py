"""What ``upstream-tests`` runs inside of pytest: the policy on, and a line for all that happens.

``python -m pytest -p upstream.plugin FILE`` with ``TORCH_MATERIALIZE`` naming the
policy and ``TORCH_MATERIALIZE_OUTCOMES`` the file to write to; without the latter nothing is
written.  Each line is one JSON object and is written when it happens: a JUnit file would be lost
with a process that crashes.  Tests that ended in an earlier process, by that file, are left out.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from torch_materialize.events import counted

__all__ = ["COUNTED", "DEVICE", "OUTCOMES", "read_events"]

#: The variable that names the file to write to.
OUTCOMES = "TORCH_MATERIALIZE_OUTCOMES"
#: The variable that names test files whose expected numbers are bytes, with commas between.
COUNTED = "TORCH_MATERIALIZE_BYTE_COUNTS"

#: The variable that names the device to run on, where a test leaves that open.
DEVICE = "TORCH_MATERIALIZE_TEST_DEVICE"

# Lines of a failure that are kept.
_LINES = 12

# Seconds, outcome and message of the test that runs.
_phases: list[tuple[float, str, str]] = []
# (expected, found) of the byte counts that it has looked at.
_numbers: list[tuple[int, int]] = []
# Graphs that were planned before it, and in how many of them the plan acted.
_graphs = [(0, 0)]


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


def _outcomes() -> Path | None:
    """The file to write to; None where none is named."""
    name = os.environ.get(OUTCOMES)
    return Path(name) if name else None


def _tell(**event: Any) -> None:
    path = _outcomes()
    if path is not None:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")


class _Surprises(logging.Handler):
    """Passes on what torch-materialize warns of."""

    def emit(self, record: logging.LogRecord) -> None:
        _tell(warning=record.getMessage())


def pytest_configure() -> None:
    """Puts the policy on before any test file can import what it replaces."""
    path = _outcomes()
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        found = "a folder" if path.is_dir() else "no such folder"
        raise pytest.UsageError(
            f"{OUTCOMES}={path}: expected a file to write to, found {found}. Name another one."
        )
    from torch_materialize import auto  # noqa: F401 - it enables what the environment names
    from torch_materialize.events import log

    log.addHandler(_Surprises(logging.WARNING))
    if os.environ.get(DEVICE) == "cpu":
        _instead_of_a_gpu("cpu")


def _instead_of_a_gpu(device: str) -> None:
    """Gives ``device`` to tests that ask for a GPU without saying that they need one.

    Upstream's files name the GPU by this constant, "cuda" where there is none; ``test_perf.py``
    puts all of its tensors there.
    """
    try:
        from torch.testing._internal import inductor_utils
    except ImportError:
        return  # the test files say why
    if hasattr(inductor_utils, "GPU_TYPE"):
        inductor_utils.GPU_TYPE = device


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what ended before, and notes byte counts in the files that have them."""
    path = _outcomes()
    before = [] if path is None else list(read_events(path))
    ended = {event.get("ended", event.get("known")) for event in before}
    _tell(collected=len(items))
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
        lines = report.longreprtext.splitlines()[-_LINES:]
        errors = [line.removeprefix("E").strip() for line in lines if line.startswith("E ")]
        _tell(ended=report.nodeid, outcome="error", message="\n".join(errors or lines))


def pytest_runtest_logstart(nodeid: str) -> None:
    """A test that starts; without an end it took its process with it."""
    _phases.clear()
    _numbers.clear()
    _graphs[:] = [counted()]
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
    (before,), after = _graphs, counted()
    _tell(
        ended=nodeid,
        outcome=outcome,
        message=message,
        seconds=round(seconds, 3),
        numbers=list(_numbers),
        graphs=after[0] - before[0],
        acted=after[1] - before[1],
    )


def _message(report: pytest.TestReport) -> str:
    """Of a failure, the exception with what it says, and the line of the test that it is from.

    Not the last lines: those are upstream's advice, or where the comparison was made.
    """
    if report.passed:
        return ""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else report.longreprtext
    said = [line for line in text.splitlines() if line.strip()][:_LINES]
    name = re.escape(report.nodeid.partition("::")[0].rpartition("/")[2])
    # As pytest writes it, and as Python does.
    lines = re.findall(rf'{name}(?::|", line )(\d+)', report.longreprtext)
    where = [f"{report.nodeid.partition('::')[0]}:{lines[-1]}"] if lines else []
    return "\n".join([*said, *where])
