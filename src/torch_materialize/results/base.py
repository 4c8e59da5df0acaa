"""The parts that every record is made of: files written whole or not at all, schemas, graphs.

The schemas are described in ``docs/record.md``.  Readers of version N read every file of
version N; a change that they would misread raises the version of that schema.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..core.graph import Graph, Kernel, Tensor
from ..errors import RecordError

__all__ = [
    "check_schema",
    "complete",
    "graph_from_json",
    "graph_to_json",
    "read_json",
    "tensor_to_json",
    "write_json",
    "write_whole",
]


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
    # Not a file of tempfile's: those are private, and a record is as readable as any file of the
    # user; to ask for the umask is to change it for every thread.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with temporary.open("xb") as file:
        try:
            file.write(content)
            file.close()
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise


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


def tensor_to_json(tensor: Tensor) -> dict[str, Any]:
    """One buffer as plain JSON values."""
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
        "tensors": [tensor_to_json(t) for t in graph.tensors.values()],
    }


def graph_from_json(data: dict[str, Any]) -> Graph:
    """A scheduled graph from what :func:`graph_to_json` made of it."""
    tensors = [Tensor(**{**t, "shape": tuple(t["shape"])}) for t in data["tensors"]]
    kernels = [Kernel(**{**k, "computes": tuple(k["computes"])}) for k in data["kernels"]]
    return Graph(tuple(kernels), {t.name: t for t in tensors})
