"""The JSON record of a comparison: written whole or not at all, read with its version checked.

The schema is described in ``docs/record.md``.  Readers of version N read every file of
version N; a change that they would misread raises :data:`VERSION`.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .compare import CapturedGraph, Comparison
from .core.graph import Graph, Kernel, Tensor
from .errors import RecordError

__all__ = [
    "SCHEMA",
    "VERSION",
    "check_schema",
    "complete",
    "from_json",
    "graph_from_json",
    "graph_to_json",
    "load",
    "read_json",
    "save",
    "to_json",
    "write_json",
    "write_whole",
]

SCHEMA = "torch-materialize/comparison"
VERSION = 1


def to_json(comparison: Comparison) -> dict[str, Any]:
    """The record as plain JSON values; bytes are integers, times seconds."""
    totals = {}
    for policy in comparison.policies:
        total = comparison.traffic(policy)
        totals[policy] = {
            "fused_kernels": total.kernels,
            "other_kernels": total.other_kernels,
            "read_bytes": total.read_bytes,
            "write_bytes": total.write_bytes,
            "bytes": total.bytes,
            "units": _units(total.bytes, comparison.unit_bytes),
            "bound_bytes": comparison.bound(policy),
            "seconds": comparison.seconds[policy],
        }
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "target": comparison.target,
        "size": dict(comparison.size),
        "device": comparison.device,
        "tracing": comparison.tracing,
        "unit_bytes": comparison.unit_bytes,
        "versions": dict(comparison.versions),
        "seconds": dict(comparison.seconds),
        "policies": list(comparison.policies),
        "totals": totals,
        "differences": [
            {
                "node": d.node,
                "materialized_by": d.materialized_by,
                "inlined_by": d.inlined_by,
                "tensor": _tensor(d.tensor),
            }
            for d in comparison.differences()
        ],
        "graphs": [
            {
                "nodes": graph.nodes,
                "bounds": dict(graph.bounds),
                "scheduled": {name: graph_to_json(g) for name, g in graph.scheduled.items()},
            }
            for graph in comparison.graphs
        ],
    }


def from_json(data: Any, where: str = "record") -> Comparison:
    """Rebuilds a comparison from :func:`to_json`'s output.

    Raises:
        RecordError: it is another schema, a newer version, or something is missing.
    """
    check_schema(data, SCHEMA, VERSION, where)
    with complete(where):
        return Comparison(
            target=data["target"],
            device=data["device"],
            tracing=data["tracing"],
            unit_bytes=data["unit_bytes"],
            policies=tuple(data["policies"]),
            graphs=tuple(
                CapturedGraph(
                    g["nodes"],
                    {name: graph_from_json(s) for name, s in g["scheduled"].items()},
                    g["bounds"],
                )
                for g in data["graphs"]
            ),
            seconds=data["seconds"],
            versions=data["versions"],
            size=data["size"],
        )


def save(comparison: Comparison, path: str | Path) -> None:
    """Writes the record; a reader sees the old file or the whole new one.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    write_json(Path(path), to_json(comparison))


def write_json(path: Path, data: Any) -> None:
    """Writes a JSON file; a reader sees the old one or the whole new one.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    write_whole(path, (json.dumps(data, indent=1) + "\n").encode())


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file; a reader sees the old one or the whole new one.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        # mkstemp makes private files; a record is as readable as any file of the user.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def load(path: str | Path) -> Comparison:
    """Reads a record.

    Raises:
        RecordError: there is no such file, it is not JSON, or not a record that we read.
    """
    return from_json(read_json(Path(path)), str(path))


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        RecordError: there is no such file, or it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise RecordError(f"{path}: is not JSON ({error}). Make it anew.") from error


def check_schema(data: Any, schema: str, version: int, where: str) -> None:
    """Lets pass what says of itself that it is of this schema and version.

    Raises:
        RecordError: it is of another one.
    """
    if not isinstance(data, dict) or data.get("schema") != schema:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise RecordError(f"{where}: expected schema {schema!r}; found {found!r}")
    if data.get("version") != version:
        raise RecordError(
            f"{where}: expected version {version}; found {data.get('version')!r}. "
            "Read it with the torch-materialize that wrote it, or make it anew."
        )


@contextlib.contextmanager
def complete(where: str) -> Iterator[None]:
    """Inside the block, what the data lacks or has of another kind is damage to a record.

    Raises:
        RecordError: something is missing.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordError(
            f"{where}: the record is damaged ({type(error).__name__}: {error}). Make it anew."
        ) from error


def _units(size: int, unit: int) -> float | None:
    return round(size / unit, 3) if unit else None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _tensor(tensor: Tensor) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "node": tensor.node,
        "bytes": tensor.bytes,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "source": tensor.source,
    }


def graph_to_json(graph: Graph) -> dict[str, Any]:
    """One scheduled graph as plain JSON values."""
    return {
        "kernels": [
            {
                "name": k.name,
                "kind": k.kind,
                "reads": dict(k.reads),
                "writes": dict(k.writes),
                "computes": list(k.computes),
            }
            for k in graph.kernels
        ],
        "tensors": [_tensor(t) for t in graph.tensors.values()],
    }


def graph_from_json(data: dict[str, Any]) -> Graph:
    """A scheduled graph from what :func:`graph_to_json` made of it."""
    tensors = [Tensor(**{**t, "shape": tuple(t["shape"])}) for t in data["tensors"]]
    kernels = [Kernel(**{**k, "computes": tuple(k["computes"])}) for k in data["kernels"]]
    return Graph(tuple(kernels), {t.name: t for t in tensors})
