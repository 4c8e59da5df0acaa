"""Cases in processes of their own: compiled side by side, timed one at a time.

On a GPU most of a benchmark is compiling, which other cores can do for other cases meanwhile; and
a kernel that reads where it must not takes its whole process along, which is then one row with an
error.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

from .cases import Case, cases
from .correct import check
from .measure import Effort, prepared, timed

# Seconds for one case to be compiled in every way, and to be timed.
_COMPILED, _TIMED = 240.0, 90.0
_READY = "ready"


@dataclass(frozen=True)
class Job:
    """What one process does, without anything that cannot be sent to it.

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
    """One job under way."""

    def __init__(self, job: Job) -> None:
        self.job = job
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, job))
        self._process.start()
        theirs.close()

    def go_on(self) -> None:
        self._pipe.send(None)

    def next(self, seconds: float, doing: str) -> Any:
        """What the process says next: that it is ready, or its row."""
        error = self.job.case().about
        try:
            if self._pipe.poll(max(seconds, 0.0)):
                return self._pipe.recv()
            error["error"] = f"not {doing} after {seconds:.0f} s"
        except (EOFError, OSError):
            self._process.join(5)
            error["error"] = f"not {doing}: the process ended with {self._process.exitcode}"
        return error

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def rows(
    jobs: Sequence[Job], at_once: int, deadline: float
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Each job with its row, ``at_once`` of them compiling together, until ``deadline``.

    ``deadline`` is in seconds of :func:`time.monotonic`.  What is not done by then has no row.
    """
    for first in range(0, len(jobs), at_once):
        if time.monotonic() > deadline:
            return
        processes = [_Process(job) for job in jobs[first : first + at_once]]
        try:
            yield from _rows(processes, deadline)
        finally:
            for process in processes:
                process.end()


def _rows(processes: Sequence[_Process], deadline: float) -> Iterator[tuple[Job, dict[str, Any]]]:
    end = min(time.monotonic() + _COMPILED, deadline)
    said = [(process, process.next(end - time.monotonic(), "compiled")) for process in processes]
    for process, first in said:
        if first == _READY:
            continue
        process.end()
        if "error" not in first or time.monotonic() < deadline:
            yield process.job, first  # else there was no time to see what it would have been
    for process, first in said:
        if first == _READY and time.monotonic() < deadline:
            process.go_on()
            yield process.job, process.next(_TIMED, "timed")
            process.end()


def _work(pipe: Connection, job: Job) -> None:
    case = job.case()
    try:
        if job.effort is None:
            row = check(case, job.ways, job.device)
        else:
            made = prepared(case, job.ways, job.device)
            if job.device == "cuda":
                torch.cuda.synchronize()
            pipe.send(_READY)
            pipe.recv()
            row = timed(made, job.effort)
    except Exception as error:  # noqa: BLE001 - the others are worth having
        row = {**case.about, "error": f"{type(error).__name__}: {error}"}
    pipe.send(row)
    pipe.close()
