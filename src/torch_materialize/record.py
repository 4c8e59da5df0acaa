"""The JSON record of a comparison: written whole or not at all, read with its version checked.

The schema is described in ``docs/record.md``.  Readers of version N read every file of
version N; a change that they would misread raises :data:`VERSION`.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from .compare import CapturedGraph, Comparison
from .core.graph import Graph, Kernel, Tensor
from .errors import RecordError

__all__ = ["SCHEMA", "VERSION", "from_json", "load", "save", "to_json"]

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
                "scheduled": {name: _graph(g) for name, g in graph.scheduled.items()},
            }
            for graph in comparison.graphs
        ],
    }


def from_json(data: Any, where: str = "record") -> Comparison:
    """Rebuilds a comparison from :func:`to_json`'s output.

    Raises:
        RecordError: it is another schema, a newer version, or something is missing.
    """
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise RecordError(f"{where}: expected schema {SCHEMA!r}; found {found!r}")
    if data.get("version") != VERSION:
        raise RecordError(
            f"{where}: expected version {VERSION}; found {data.get('version')!r}. "
            "Read it with the torch-materialize that wrote it, or make it anew."
        )
    try:
        return Comparison(
            target=data["target"],
            device=data["device"],
            tracing=data["tracing"],
            unit_bytes=data["unit_bytes"],
            policies=tuple(data["policies"]),
            graphs=tuple(
                CapturedGraph(
                    g["nodes"],
                    {name: _read_graph(s) for name, s in g["scheduled"].items()},
                    g["bounds"],
                )
                for g in data["graphs"]
            ),
            seconds=data["seconds"],
            versions=data["versions"],
            size=data["size"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordError(
            f"{where}: the record is damaged ({type(error).__name__}: {error}). Make it anew."
        ) from error


def save(comparison: Comparison, path: str | Path) -> None:
    """Writes the record; a reader sees the old file or the whole new one.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    text = json.dumps(to_json(comparison), indent=1)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text + "\n")
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
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise RecordError(f"{path}: is not JSON ({error}). Make it anew.") from error
    return from_json(data, str(path))


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


def _graph(graph: Graph) -> dict[str, Any]:
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


def _read_graph(data: dict[str, Any]) -> Graph:
    tensors = [Tensor(**{**t, "shape": tuple(t["shape"])}) for t in data["tensors"]]
    kernels = [Kernel(**{**k, "computes": tuple(k["computes"])}) for k in data["kernels"]]
    return Graph(tuple(kernels), {t.name: t for t in tensors})
