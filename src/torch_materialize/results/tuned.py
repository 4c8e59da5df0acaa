"""What the policy `tune` chose, remembered on disk: one JSON file for each graph and device.

A file is written whole or not at all, so that any number of processes may read and write at
once, on network file systems too; of two that chose at the same time the later file stays.
Which files there are is bounded: the oldest go.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import RecordError
from .base import Schema

__all__ = [
    "FOLDER_VARIABLE",
    "MOST",
    "Remembered",
    "clear",
    "damaged",
    "entries",
    "folder",
    "recall",
    "remember",
]

#: Environment variable that names another folder.
FOLDER_VARIABLE = "TORCH_MATERIALIZE_TUNED"
#: Choices that are kept; a choice takes a few kilobytes.
MOST = 2000


@dataclass(frozen=True)
class Remembered:
    """One choice.

    Attributes:
        key: digest of the graph, its shapes and what the choice was made for.
        choice: the name of the variant that was fastest, or ``stock``.
        decision: the variant's nodes to materialize and the like, as lists of names; a list is
            None where everything is left to stock.
        seconds: median time of each variant.
        noise: share within which two timings of stock lay.
        about: device, versions, size of the graph: for people to read.
        made: when, in seconds since 1970.
    """

    key: str
    choice: str
    decision: Mapping[str, list[str] | None]
    seconds: Mapping[str, float] = field(default_factory=dict)
    noise: float = 0.0
    about: Mapping[str, str] = field(default_factory=dict)
    made: float = field(default_factory=time.time)


_CHOICE = Schema(Remembered, "tuned", 1)


def folder() -> Path:
    """Where choices are kept: ``$TORCH_MATERIALIZE_TUNED``, or the user's cache folder."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "torch-materialize" / "tuned"


def remember(one: Remembered) -> None:
    """Keeps a choice, and forgets the oldest where there are too many.

    Raises:
        OSError: the folder cannot be made or written.
    """
    where = folder()
    where.mkdir(parents=True, exist_ok=True)
    _CHOICE.save(one, where / f"{one.key}.json")
    for path in _oldest_first(where)[:-MOST]:
        path.unlink(missing_ok=True)


def recall(key: str) -> Remembered | None:
    """The choice of that key; None where there is none, or none that can be read."""
    path = folder() / f"{key}.json"
    if not path.is_file():
        return None
    try:
        return _read(path)
    except RecordError:
        return None  # damaged, or of another version: it is chosen anew and replaced


def entries() -> Iterator[Remembered]:
    """Every choice that can be read, oldest first."""
    for path in _oldest_first(folder()):
        found = recall(path.stem)
        if found is not None:
            yield found


def damaged() -> Iterator[RecordError]:
    """What is wrong with each file that holds no choice that can be read, oldest first."""
    for path in _oldest_first(folder()):
        try:
            _read(path)
        except RecordError as error:
            yield error


def clear() -> int:
    """Forgets every choice; how many there were.

    Raises:
        OSError: a file cannot be removed.
    """
    paths = _oldest_first(folder())
    for path in paths:
        path.unlink(missing_ok=True)
    return len(paths)


def _oldest_first(where: Path) -> list[Path]:
    aged = []
    for path in where.glob("*.json"):
        try:
            aged.append((path.stat().st_mtime, path.name, path))
        except FileNotFoundError:
            continue  # another process has just removed it
    return [path for *_, path in sorted(aged)]


def _read(path: Path) -> Remembered:
    one = _CHOICE.load(path)
    if one.key != path.stem:
        raise RecordError(f"{path}: is not a choice of that key. Remove it.")
    return one
