"""The JSON file of a sweep, and whether a sweep may go on with one.

The schema is described in ``docs/record.md``; :mod:`..results.base` has the rules for versions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import RecordError
from ..results.base import check_schema, complete, read_json, write_json
from .rows import GraphRow, ModelRow, Settings
from .run import Sweep

__all__ = ["SCHEMA", "VERSION", "from_json", "load", "resume", "save", "to_json"]

SCHEMA = "torch-materialize/sweep"
VERSION = 1


def to_json(sweep: Sweep) -> dict[str, Any]:
    """The sweep as plain JSON values: bytes, seconds, and percent where a name says so."""
    summaries = [sweep.summary(policy) for policy in sweep.settings.policies]
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "date": sweep.date,
        "versions": dict(sweep.versions),
        "settings": asdict(sweep.settings),
        "summary": [asdict(found) for found in summaries if found is not None],
        "models": [asdict(model) for model in sweep.models],
        "graphs": [row.to_json() for row in sweep.graphs],
    }


def from_json(data: Any, where: str = "sweep") -> Sweep:
    """Rebuilds a sweep from :func:`to_json`'s output.

    Raises:
        RecordError: it is another schema, a newer version, or something is missing.
    """
    check_schema(data, SCHEMA, VERSION, where)
    with complete(where):
        return Sweep(
            settings=Settings.from_json(data["settings"]),
            versions=data["versions"],
            date=data["date"],
            models=tuple(ModelRow(**model) for model in data["models"]),
            graphs=tuple(GraphRow.from_json(row) for row in data["graphs"]),
        )


def save(sweep: Sweep, path: Path) -> None:
    """Writes the file; a reader sees the old one or the whole new one.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    write_json(path, to_json(sweep))


def load(path: Path) -> Sweep:
    """Reads the file of a sweep.

    Raises:
        RecordError: there is no such file, it is not JSON, or not a sweep that we read.
    """
    return from_json(read_json(path), str(path))


def resume(path: Path, sweep: Sweep) -> Sweep:
    """What the file has, to go on with as ``sweep`` was going to; ``sweep`` where none is.

    Raises:
        RecordError: the file is no sweep, or is one of other versions or settings, whose rows
            cannot stand beside new ones.
    """
    if not path.exists():
        return sweep
    old = load(path)
    differing = list(_differences(old, sweep))
    if differing:
        lines = "\n".join(f"  {line}" for line in differing)
        raise RecordError(
            f"{path}: cannot be resumed, its rows were made with something else:\n{lines}\n"
            "Resume with what the file was made with, or sweep into another file."
        )
    return old


def _differences(old: Sweep, new: Sweep) -> Iterator[str]:
    pairs = (old.versions, new.versions), (asdict(old.settings), asdict(new.settings))
    for found, expected in pairs:
        for name in dict.fromkeys((*found, *expected)):
            one, other = found.get(name), expected.get(name)
            if one != other:
                yield f"{name}: found {_text(one)}, expected {_text(other)}"


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
