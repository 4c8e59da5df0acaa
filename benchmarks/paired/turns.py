"""Who may use a GPU: one process that times on it, or any number that only try what they compiled.

Cases are compiled while others are timed.  A step that is run while another is timed would be part
of that time; compiling is not, so a process waits only for its launches of compiled graphs.  Models
are built at any time: that is milliseconds of a GPU, among minutes of imports.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch._inductor.output_code import CompiledFxGraph


@dataclass(frozen=True)
class Turns:
    """Locks in a folder that all processes of a run know; they go with a process that dies.

    Who waits to be alone is waited for: nobody comes in through a door that is held.
    """

    folder: Path

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Inside the block nobody else of this run uses the GPU."""
        with self._locked("door", fcntl.LOCK_EX), self._locked("gpu", fcntl.LOCK_EX):
            yield

    @contextlib.contextmanager
    def beside_others(self) -> Iterator[None]:
        """Inside the block nobody times anything."""
        with contextlib.ExitStack() as door, contextlib.ExitStack() as inside:
            door.enter_context(self._locked("door", fcntl.LOCK_EX))
            inside.enter_context(self._locked("gpu", fcntl.LOCK_SH))
            door.close()
            yield

    @contextlib.contextmanager
    def launches_beside_others(self) -> Iterator[None]:
        """Inside the block compiled graphs are compiled at any time, and run where nobody times."""
        run = CompiledFxGraph.__call__
        inside = False

        def call(graph: CompiledFxGraph, inputs: Sequence[Any]) -> Any:
            nonlocal inside
            if inside:  # it would wait for whoever waits for it
                return run(graph, inputs)
            with self.beside_others():
                inside = True
                try:
                    return run(graph, inputs)
                finally:
                    inside = False
                    if torch.cuda.is_available():
                        torch.cuda.synchronize()  # what was launched is done

        with mock.patch.object(CompiledFxGraph, "__call__", call):
            yield

    @contextlib.contextmanager
    def _locked(self, name: str, how: int) -> Iterator[None]:
        file = os.open(self.folder / name, os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(file, how)
            yield
        finally:
            os.close(file)
