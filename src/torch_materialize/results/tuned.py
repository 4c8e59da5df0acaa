"""What the policy `tune` chose, remembered on disk: plan files that say what was measured.

They are in the folder of plan files that the policy names, or else in the user's cache, where there
are never more than :data:`MOST`: the oldest go.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import RecordError
from .plan_file import PLAN_FILE, SUFFIX, PlanFile, save

__all__ = [
    "FOLDER_VARIABLE",
    "MOST",
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


def folder() -> Path:
    """Where choices are kept: ``$TORCH_MATERIALIZE_TUNED``, or the user's cache folder."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "torch-materialize" / "tuned"


def remember(plan: PlanFile, named: Path | None = None) -> None:
    """Keeps a choice in a named folder, or in ours, and forgets the oldest where we have too many.

    Raises:
        OSError: the folder cannot be made or written.
    """
    if named is not None:
        save(plan, named)
        return
    where = folder()
    save(plan, where)
    for path in _oldest_first(where)[:-MOST]:
        path.unlink(missing_ok=True)


def recall(key: str, named: Path | None = None) -> PlanFile | None:
    """The choice of that key; None where there is none, or none that can be read."""
    path = (named or folder()) / f"{key}{SUFFIX}"
    if not path.is_file():
        return None
    try:
        plan = _read(path)
    except RecordError:
        return None  # damaged, or of another version: it is chosen anew and replaced
    return plan if plan.measured is not None else None


def entries() -> Iterator[PlanFile]:
    """Every choice in our folder that can be read, oldest first."""
    for path in _oldest_first(folder()):
        found = recall(path.name.removesuffix(SUFFIX))
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
    """Forgets every choice in our folder; how many there were.

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


def _read(path: Path) -> PlanFile:
    plan = PLAN_FILE.load(path)
    if path.name != f"{plan.key}{SUFFIX}" or plan.measured is None:
        raise RecordError(f"{path}: is not a choice of that key. Remove it.")
    return plan
