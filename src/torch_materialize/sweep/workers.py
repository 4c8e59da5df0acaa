"""Runs jobs in child processes, several at once; whatever a child does, its job gets a result.

One process for each job: a model that crashes, hangs or eats the memory takes nothing with it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from ..results.base import convert, read_json
from .rows import Job, Measured, ModelRow, Request, Result, Settings, Status

__all__ = ["end_at_once", "results"]

# Seconds that a child may take to start.
_STARTING = 0.5

# The working folder is not searched: a file of the user's must not stand in for a package.
# The package's own folder is searched last, for a parent that found it by its working folder.
_CHILD = (
    "import sys; sys.path[0:1] = []; sys.path.append({root!r}); "
    "from torch_materialize.sweep.measure import main; main()"
)

# What a child's figures must not depend on, and what would make children fight for the cores.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "HF_HUB_OFFLINE": "1",
    # A surprise in our code must be an error in the sweep, not a figure of stock's.
    "TORCH_MATERIALIZE_STRICT": "1",
    "TORCH_MATERIALIZE": "",
}

# What runs in this process: a signal handler is given nothing.
_EVERY: list[_Children] = []


def results(
    jobs: Sequence[Job], settings: Settings, at_once: int, timeout: float, dump: str = ""
) -> Generator[Result]:
    """The result of each job, as they end; ``timeout`` is seconds of wall time for each.

    ``dump`` is a folder for the captured graphs.

    Closing the iterator, or an exception in its consumer's loop, ends the children.
    """
    with tempfile.TemporaryDirectory(prefix="torch-materialize-") as folder:
        children = _Children(settings, timeout, Path(folder), dump)
        _EVERY.append(children)
        with ThreadPoolExecutor(at_once) as pool:
            futures = [pool.submit(children.result, job) for job in jobs]
            try:
                for future in as_completed(futures):
                    yield future.result()
            finally:
                for future in futures:
                    future.cancel()
                children.stop()
    _EVERY.remove(children)


def end_at_once() -> None:
    """Kills what runs and removes its files; for a process that ends now, from a signal handler."""
    for children in _EVERY:
        children.kill()


class _Children:
    """The child processes that run now; their files are in ``folder``."""

    def __init__(self, settings: Settings, timeout: float, folder: Path, dump: str = "") -> None:
        self._settings = settings
        self._timeout = timeout
        self._folder = folder
        self._dump = dump
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def result(self, job: Job) -> Result:
        """Runs one job to its end."""
        if job.package and importlib.util.find_spec(job.package) is None:
            text = f"{job.package} is not installed: pip install 'torch-materialize[corpus]'"
            return _result(job, "missing", text, 0.0, Measured())
        start = time.monotonic()
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            output, log = Path(folder, "result.json"), Path(folder, "log")
            with log.open("wb") as sink:
                code = self._run(job, output, sink)
            seconds = round(time.monotonic() - start, 2)
            found = Measured()
            if output.is_file():
                found = convert(read_json(output), Measured, str(output))
            text = log.read_text(errors="replace")
        if found.done:
            return _result(job, "error" if found.errors else "ok", "", seconds, found)
        if code is None:
            limit = f"did not end within {self._timeout:g} s; see --timeout"
            return _result(job, "timeout", limit, seconds, found)
        return _result(job, "crash", f"{_ending(code)}: {_last_words(text)}", seconds, found)

    def _run(self, job: Job, output: Path, sink: BinaryIO) -> int | None:
        """The exit status of a child, None if it did not end in time."""
        request = json.dumps(asdict(Request(job, self._settings, str(output), self._dump)))
        code = _CHILD.format(root=str(Path(__file__).parents[2]))
        with self._lock:
            if self._stopped:
                return -signal.SIGTERM
            child = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", "-c", code, request],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_ENVIRONMENT},
                # A group of its own, so that what it starts ends with it.
                start_new_session=True,
            )
            self._running.add(child)
        try:
            return child.wait(self._timeout)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end(child)
            with self._lock:
                self._running.discard(child)

    def stop(self) -> None:
        """Ends what runs, and lets nothing new start."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for child in running:
            _end(child)

    def kill(self) -> None:
        """:meth:`stop` without waiting, for whoever may have interrupted any line of it."""
        # A thread that starts a child has the lock; the thread that was interrupted may, too.
        locked = self._lock.acquire(timeout=_STARTING)
        self._stopped = True
        for child in list(self._running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        if locked:
            self._lock.release()
        shutil.rmtree(self._folder, ignore_errors=True)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kills a child that still runs, with what it started, and waits for it."""
    if child.poll() is None:
        # It may end by itself just now.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _result(job: Job, status: Status, message: str, seconds: float, found: Measured) -> Result:
    text = "; ".join(filter(None, (message, *found.errors)))
    return Result(ModelRow(job.name, job.family, job.mode, status, text, seconds), found.graphs)


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"{name} (out of memory?)" if name == "SIGKILL" else name


def _last_words(text: str) -> str:
    """What a child's output says about its end: faulthandler's findings, or the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for number, line in enumerate(lines):
        if line.startswith("Fatal Python error"):
            frames = (later for later in lines[number:] if later.startswith("File "))
            return f"{line} at {next(frames, 'an unknown place')}"
    return lines[-1] if lines else "no output"
