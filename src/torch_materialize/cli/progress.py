"""Progress on stderr, for commands that work through steps."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

if TYPE_CHECKING:
    from ..jobs.explain import Step

__all__ = ["counted", "hush_upstream", "steps"]


@contextlib.contextmanager
def steps() -> Iterator[Step]:
    """A bar that the yielded function moves on; gone at the end."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        task = progress.add_task("loading torch", total=None)

        def step(text: str, done: int, every: int) -> None:
            progress.update(task, description=text, completed=done, total=every)

        yield step


def counted() -> Progress:
    """A bar on stderr that counts what is done; gone at the end."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def hush_upstream() -> None:
    """Nothing runs, so warnings about how it would run or compile only hide the progress."""
    warnings.simplefilter("ignore")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # it sets its own logger's level late
    for name in ("torch", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
