"""Cases in processes of their own: compiled side by side, timed one at a time, meanwhile.

On a GPU most of a benchmark is compiling, which other cores can do for other cases while one is
timed; and a kernel that reads where it must not takes its whole process along, which is then one
row with an error.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from .cases import Case, cases
from .clock import keep_pages
from .correct import check
from .measure import Effort, prepared, timed
from .turns import Turns

# Seconds for one case to be compiled in every way, waiting for its turns; and to be timed, beside
# its own of timing, which are of one of the places in memory.
_COMPILED, _TIMED = 900.0, 90.0
_READY = "ready"


@dataclass(frozen=True)
class Measurement:
    """What one process measures, without anything that cannot be sent to it.

    Attributes:
        tokens: with ``divisor`` and ``label`` which of all cases it is.
        effort: of timing; None: whether its answers are right.
    """

    label: str
    device: str
    tokens: tuple[int, ...]
    divisor: int
    ways: tuple[str, ...]
    effort: Effort | None = None

    def case(self) -> Case:
        """The case that it is about."""
        every = cases(self.device, self.tokens, self.divisor)
        return next(case for case in every if case.label == self.label)


class _Process:
    """One measurement under way.

    Attributes:
        pipe: says that it is ready to be timed, then its row.
        until: when it must have said so, in seconds of :func:`time.monotonic`.
    """

    def __init__(self, wanted: Measurement, turns: Turns) -> None:
        self.wanted = wanted
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.until = time.monotonic() + _COMPILED
        self._process = context.Process(target=_work, args=(theirs, wanted, turns))
        self._process.start()
        theirs.close()

    def next(self, seconds: float = 0.0) -> Any:
        """What the process says within ``seconds``: that it is ready, or its row."""
        error = self.wanted.case().about
        try:
            if self.pipe.poll(max(seconds, 0.0)):
                return self.pipe.recv()
            error["error"] = "not done in time"
        except (EOFError, OSError):
            self._process.join(5)
            error["error"] = f"its process ended with {self._process.exitcode}"
        return error

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self.pipe.close()


def rows(
    every: Sequence[Measurement], at_once: int, deadline: float
) -> Iterator[tuple[Measurement, dict[str, Any]]]:
    """Each measurement with its row, as they are done, ``at_once`` processes at a time.

    ``deadline`` is in seconds of :func:`time.monotonic`.  What is not done by then has no row.
    """
    waiting = deque(every)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        turns = Turns(Path(folder))
        running: list[_Process] = []
        stack.callback(lambda: [process.end() for process in running])
        while (waiting or running) and time.monotonic() < deadline:
            while waiting and len(running) < at_once:
                running.append(_Process(waiting.popleft(), turns))
            for process in _first(running, deadline):
                row = process.next()
                if row == _READY:
                    with contextlib.suppress(OSError):  # a process that is gone says so
                        process.pipe.send(None)
                    allowed = _TIMED + 5 * process.wanted.effort.seconds
                    row = process.next(min(allowed, deadline - time.monotonic()))
                running.remove(process)
                process.end()
                if "error" not in row or time.monotonic() < deadline:
                    yield process.wanted, row  # else nobody saw what it would have been


def _first(running: Sequence[_Process], deadline: float) -> list[_Process]:
    """One that has something to say, or took too long; none after ``deadline``."""
    until = min(deadline, *(process.until for process in running))
    said = wait([process.pipe for process in running], max(until - time.monotonic(), 0.0))
    late = time.monotonic()
    found = [p for p in running if p.pipe in said or p.until <= late < deadline]
    return found[:1]


def _work(pipe: Connection, wanted: Measurement, turns: Turns) -> None:
    warnings.filterwarnings("ignore", message="dynamo_pgo")
    case = wanted.case()
    if wanted.device == "cpu":
        keep_pages()
    try:
        if wanted.effort is None:
            row = check(case, wanted.ways, wanted.device)
        else:
            row = _timed(pipe, case, wanted, wanted.effort, turns)
    except Exception as error:  # noqa: BLE001 - the other cases are worth having
        row = {**case.about, "error": f"{type(error).__name__}: {error}"}
    pipe.send(row)
    pipe.close()


def _timed(
    pipe: Connection, case: Case, wanted: Measurement, effort: Effort, turns: Turns
) -> dict[str, Any]:
    with turns.launches_beside_others():
        made = prepared(case, wanted.ways, wanted.device)
    pipe.send(_READY)
    pipe.recv()
    asked = time.monotonic()
    with turns.alone():
        start = time.monotonic()
        row = timed(made, effort)
    return row | {"waited": round(start - asked, 1), "took": round(time.monotonic() - start, 1)}
