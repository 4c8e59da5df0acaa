"""The record of an explanation: compressed JSON, written whole or not at all.

The schema is described in ``docs/record.md``.
"""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..core.story import Decision, Group, Refusal
from ..errors import RecordError
from .base import check_schema, complete, graph_from_json, graph_to_json, read_json, write_whole
from .explanation import Code, ExplainedGraph, Explanation, Node, Side

__all__ = ["SCHEMA", "SUFFIX", "VERSION", "from_json", "load", "save", "to_json"]

SCHEMA = "torch-materialize/explanation"
VERSION = 1
SUFFIX = ".json.gz"
_GZIP = b"\x1f\x8b"


def to_json(explanation: Explanation) -> dict[str, Any]:
    """The record as plain JSON values; bytes are integers, times seconds."""
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "target": explanation.target,
        "origin": explanation.origin,
        "size": dict(explanation.size),
        "device": explanation.device,
        "unit_bytes": explanation.unit_bytes,
        "balance": explanation.balance,
        "versions": dict(explanation.versions),
        "seconds": dict(explanation.seconds),
        "policies": list(explanation.policies),
        "priced": explanation.priced,
        "numerics": explanation.numerics,
        "graphs": [
            {
                "kind": graph.kind,
                "nodes": graph.nodes,
                "left_out": graph.left_out,
                "facts": [asdict(fact) for fact in graph.facts.values()],
                "sides": {policy: _side(side) for policy, side in graph.sides.items()},
                "decisions": [asdict(decision) for decision in graph.decisions],
                "groups": [asdict(group) for group in graph.groups],
                "refused": [asdict(refusal) for refusal in graph.refused],
                "saves": {
                    policy: {"shares": dict(found), "rest": graph.rest(policy)}
                    for policy, found in graph.saves.items()
                },
            }
            for graph in explanation.graphs
        ],
    }


def _side(side: Side) -> dict[str, Any]:
    return {
        "bound": side.bound,
        "peak_bytes": side.peak_bytes,
        "work": dict(side.work),
        "graph": graph_to_json(side.graph),
        "code": None if side.code is None else asdict(side.code),
    }


def from_json(data: Any, where: str = "record") -> Explanation:
    """Rebuilds an explanation from :func:`to_json`'s output.

    Raises:
        RecordError: it is another schema, another version, or something is missing.
    """
    check_schema(data, SCHEMA, VERSION, where)
    with complete(where):
        return Explanation(
            target=data["target"],
            device=data["device"],
            policies=tuple(data["policies"]),
            priced=data["priced"],
            graphs=tuple(_read_graph(graph) for graph in data["graphs"]),
            unit_bytes=data["unit_bytes"],
            balance=data["balance"],
            seconds=data["seconds"],
            versions=data["versions"],
            size=data["size"],
            origin=data["origin"],
        )


def _read_graph(data: dict[str, Any]) -> ExplainedGraph:
    facts = [Node(**{**fact, "shape": tuple(fact["shape"])}) for fact in data["facts"]]
    return ExplainedGraph(
        kind=data["kind"],
        nodes=data["nodes"],
        facts={fact.name: fact for fact in facts},
        sides={policy: _read_side(side) for policy, side in data["sides"].items()},
        decisions=tuple(
            Decision(**{**one, "needed_by": tuple(one["needed_by"])}) for one in data["decisions"]
        ),
        groups=tuple(Group(**{**one, "nodes": tuple(one["nodes"])}) for one in data["groups"]),
        left_out=data["left_out"],
        # Older records of this version are without these.
        refused=tuple(Refusal(**one) for one in data.get("refused", ())),
        saves={policy: one["shares"] for policy, one in data.get("saves", {}).items()},
    )


def _read_side(data: dict[str, Any]) -> Side:
    code = data["code"]
    return Side(
        graph=graph_from_json(data["graph"]),
        bound=data["bound"],
        peak_bytes=data["peak_bytes"],
        work=data["work"],
        code=None if code is None else Code(code["kernels"], tuple(code["launches"])),
    )


def save(explanation: Explanation, path: Path) -> None:
    """Writes the record, compressed where the name ends in ``.gz``.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    content = json.dumps(to_json(explanation), separators=(",", ":")).encode()
    # Without a time stamp equal records are equal files.
    write_whole(path, gzip.compress(content, 6, mtime=0) if path.suffix == ".gz" else content)


def load(path: Path) -> Explanation:
    """Reads a record, compressed or not.

    Raises:
        RecordError: there is no such file, it is not JSON, or not a record that we read.
    """
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == _GZIP
        if not compressed:
            return from_json(read_json(path), str(path))
        data = json.loads(gzip.decompress(path.read_bytes()))
    except OSError as error:
        reason = error.strerror or str(error)
        raise RecordError(f"{path}: cannot be read ({reason})") from error
    except (ValueError, EOFError, zlib.error) as error:
        raise RecordError(f"{path}: is damaged ({error}). Make it anew.") from error
    return from_json(data, str(path))
