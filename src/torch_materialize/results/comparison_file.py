"""The JSON record of a comparison (``docs/record.md``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .base import (
    check_schema,
    complete,
    graph_from_json,
    graph_to_json,
    read_json,
    tensor_to_json,
    write_json,
)
from .comparison import CapturedGraph, Comparison

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
                "tensor": tensor_to_json(d.tensor),
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


def load(path: str | Path) -> Comparison:
    """Reads a record.

    Raises:
        RecordError: there is no such file, it is not JSON, or not a record that we read.
    """
    return from_json(read_json(Path(path)), str(path))


def _units(size: int, unit: int) -> float | None:
    return round(size / unit, 3) if unit else None
