"""Processes that have imported torch and compiled nothing, at the price of one import.

``python tests/fresh.py MODULE...`` imports modules, and then forks for each line of JSON on its
standard input: a program with its arguments, its environment and two files for what it writes.
It answers with the exit status and the seconds of CPU time.  A child has compiled nothing and
shares nothing with its siblings but folders; settings that torch reads when it is imported are
those of the parent.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

#: What a compile with Inductor imports.
INDUCTOR = "torch._inductor.compile_fx"


class Fresh:
    """Starts such processes, one at a time."""

    #: What all of them took; to the operating system they are our children once the parent ends.
    cpu_seconds = 0.0

    def __init__(self, environment: Mapping[str, str], *modules: str) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, *modules],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self, program: str, *arguments: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program to its end, like ``python -c``, with more in its environment."""
        assert self._parent.stdin and self._parent.stdout
        with tempfile.TemporaryDirectory() as folder:
            files = [os.path.join(folder, name) for name in ("stdout", "stderr")]
            request = [program, ["-c", *arguments], environment, *files]
            print(json.dumps(request), file=self._parent.stdin, flush=True)
            status, seconds = json.loads(self._parent.stdout.readline())
            texts = [Path(file).read_text() for file in files]
        Fresh.cpu_seconds += seconds
        return subprocess.CompletedProcess(["-c", *arguments], status, *texts)

    def close(self) -> None:
        """Ends the parent."""
        self._parent.communicate()


@functools.cache
def upstream() -> Fresh:
    """Processes that have imported torch and Inductor and nothing of ours; our errors are raised.

    One parent serves all test files of a pytest process.
    """
    kept = {k: v for k, v in os.environ.items() if k != "TORCH_MATERIALIZE"}
    # The solver is no part of ours, either, and takes half of our import.
    return Fresh({**kept, "TORCH_MATERIALIZE_STRICT": "1"}, INDUCTOR, "scipy.optimize")


def _be(program: str, argv: list[str], environment: dict[str, str], *files: str) -> NoReturn:
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv[:] = argv
    sys.path[0] = ""
    os.environ.update(environment)
    status = 1
    try:
        exec(program, {"__name__": "__main__"})
        status = 0
    except BaseException:  # noqa: BLE001 - of a whole process
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _main() -> None:
    for name in sys.argv[1:]:
        importlib.import_module(name)
    for line in sys.stdin:
        request: list[Any] = json.loads(line)
        child = os.fork()
        if child == 0:
            _be(*request)
        _, status, used = os.wait4(child, 0)
        answer = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _main()
