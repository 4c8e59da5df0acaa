"""The file of a run of upstream's tests, and going on with one; ``docs/record.md`` describes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch_materialize.core.policy import parse
from torch_materialize.errors import RecordError
from torch_materialize.results.base import check_schema, complete, read_json, write_json
from torch_materialize.versions import implementation, installed_versions
from upstream.run import Outcome, UpstreamRun, file_of

__all__ = ["load", "resume", "save", "to_json"]

SCHEMA = "torch-materialize/upstream-tests"
VERSION = 2


def to_json(result: UpstreamRun) -> dict[str, Any]:
    """The run as plain JSON values."""
    planned, acted = result.graphs
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "policy": str(result.policy),
        "device": result.device,
        "select": result.select,
        "files": list(result.files),
        "complete": result.is_complete,
        "finished": sorted(map(list, result.finished)),
        "seconds": result.seconds,
        "versions": _versions(),
        "warnings": result.warnings,
        "graphs": {"planned": planned, "acted": acted},
        "unproven": {name: why for name in result.files if (why := result.unproven(name))},
        "changes": [asdict(change) for change in result.changes()],
        "failing_with_both": {
            test: one.message for test, one in result.failing_with_both().items()
        },
        "stock": _outcomes(result.stock),
        "governed": _outcomes(result.governed),
    }


def _outcomes(of: Mapping[str, Outcome]) -> dict[str, Any]:
    return {test: asdict(one) for test, one in of.items()}


def _versions() -> dict[str, str]:
    return {**installed_versions(), "torch-materialize": implementation()}


def save(result: UpstreamRun, path: Path) -> None:
    """Writes the file; a reader sees the old one or the whole new one.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    write_json(path, to_json(result))


def load(path: Path) -> UpstreamRun:
    """Reads the file of a run.

    Raises:
        RecordError: there is no such file, it is not JSON, or not a run that we read.
    """
    return _from_json(read_json(path), str(path))


def _from_json(data: Any, where: str) -> UpstreamRun:
    check_schema(data, SCHEMA, VERSION, where)

    def outcomes(side: str) -> dict[str, Outcome]:
        return {
            test: Outcome(**{**one, "numbers": tuple((a, b) for a, b in one["numbers"])})
            for test, one in data[side].items()
        }

    with complete(where):
        return UpstreamRun(
            policy=parse(data["policy"]),
            files=tuple(data["files"]),
            device=data["device"],
            select=data["select"],
            stock=outcomes("stock"),
            governed=outcomes("governed"),
            warnings=list(data["warnings"]),
            finished={(file, side) for file, side in data["finished"]},
            seconds=data["seconds"],
        )


def resume(path: Path, new: UpstreamRun) -> UpstreamRun:
    """What the file has, to go on with as ``new`` was going to; ``new`` where there is no file.

    Files that ``new`` does not name are left out, those that the file has not are added.

    Raises:
        RecordError: it is no file of a run, or of one with other versions, policy, device or
            selection, whose outcomes cannot stand beside new ones.
    """
    if not path.exists():
        return new
    data = read_json(path)
    old = _from_json(data, str(path))
    with complete(str(path)):
        differing = list(_differences(data, to_json(new)))
    if differing:
        lines = "\n".join(f"  {line}" for line in differing)
        raise RecordError(
            f"{path}: cannot be resumed, its outcomes were made with something else:\n{lines}\n"
            "Resume with what the file was made with, or write into another file."
        )
    old.files = new.files
    for side in (old.stock, old.governed):
        for test in [test for test in side if file_of(test) not in new.files]:
            del side[test]
    return old


def _differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for name in ("policy", "device", "select"):
        if old[name] != new[name]:
            yield f"{name}: found {old[name]!r}, expected {new[name]!r}"
    for name in dict.fromkeys((*old["versions"], *new["versions"])):
        one, other = old["versions"].get(name), new["versions"].get(name)
        if one != other:
            yield f"{name}: found {one}, expected {other}"
