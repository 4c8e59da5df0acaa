"""Records: values of ours as JSON files, written whole or not at all, and read back as they were.

``docs/record.md`` describes what is in them.  A kind of record is a dataclass and one
:class:`Schema`; the fields' types say how they are written and what is damage.
"""

from __future__ import annotations

import gzip
import json
import os
import secrets
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from .._version import __version__
from ..errors import RecordError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["Schema", "check_same", "convert", "json_of", "read_json", "write_json", "write_whole"]

T = TypeVar("T")
D = TypeVar("D", bound="DataclassInstance")

_GZIP = b"\x1f\x8b"
_ANEW = "Make it anew."


@dataclass(frozen=True)
class Schema(Generic[D]):
    """One kind of record.

    Readers pass over fields that they do not know, and what is absent has its default: a new
    field with a default leaves the version as it is.  A change that an old reader would
    misread raises the version.

    Attributes:
        type: the dataclass that is written and read.
        name: what stands behind ``torch-materialize/`` in the file.
        derived: further keys for whoever reads the file without us; passed over when it is read.
    """

    type: type[D]
    name: str
    version: int
    derived: Callable[[D], Mapping[str, Any]] = lambda _value: {}

    def to_json(self, value: D) -> dict[str, Any]:
        """The record as plain JSON values: its header, the fields, and what is derived."""
        return {
            "schema": f"torch-materialize/{self.name}",
            "version": self.version,
            "writer": f"torch-materialize {__version__}",
            **asdict(value),
            **self.derived(value),
        }

    def from_json(self, data: Any, where: str = "record") -> D:
        """The value of which :meth:`to_json` made ``data``; ``where`` is for errors.

        Raises:
            RecordError: it is of another schema or version, or damaged.
        """
        header = data if isinstance(data, dict) else {"schema": type(data).__name__}
        schema, version = header.get("schema"), header.get("version")
        if schema != f"torch-materialize/{self.name}":
            raise RecordError(
                f"{where}: expected schema 'torch-materialize/{self.name}'; found {schema!r}. "
                "Name a file of that kind."
            )
        if version != self.version:
            raise RecordError(
                f"{where}: expected version {self.version}; found {version!r}. Read it with what "
                f"wrote it ({header.get('writer', 'another torch-materialize')}), or make it anew."
            )
        return convert(data, self.type, where)

    def save(self, value: D, path: str | Path) -> None:
        """Writes the record, as :func:`write_json` does.

        Raises:
            OSError: the folder does not exist or cannot be written.
        """
        write_json(Path(path), self.to_json(value))

    def load(self, path: str | Path) -> D:
        """Reads a record, compressed or not.

        Raises:
            RecordError: there is no such file, it is not JSON, or not a record that we read.
        """
        return self.from_json(read_json(Path(path)), str(path))


def convert(data: Any, kind: type[T], where: str) -> T:
    """The value of which :func:`dataclasses.asdict` made ``data``.

    Raises:
        RecordError: something is missing or of another type; the message says what and where.
    """
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise RecordError(f"{where}: the record is damaged ({error}). {_ANEW}") from error


def check_same(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Lets pass a file to go on with: its rows were made as the new ones will be.

    Raises:
        RecordError: one of what ``found`` and ``expected`` name is not the same.
    """
    differing = [
        f"  {name}: found {_text(found.get(name))}, expected {_text(expected.get(name))}\n"
        for name in dict.fromkeys((*found, *expected))
        if found.get(name) != expected.get(name)
    ]
    if differing:
        raise RecordError(
            f"{path}: cannot be resumed, its rows were made with something else:\n"
            f"{''.join(differing)}"
            "Resume with what the file was made with, or write into another file."
        )


def _text(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text or "nothing"


def write_json(path: Path, data: Any) -> None:
    """Writes a JSON file, compressed where the name ends in ``.gz``; whole or not at all.

    Fields stand in the order of their definition, entries of a mapping in their own, which views
    show, and what is in a set sorted, so that equal data give equal files.  Numbers that JSON has
    no word for are ``NaN`` and ``Infinity``, as :func:`read_json` and most readers take them.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    if path.suffix == ".gz":
        text = json.dumps(data, separators=(",", ":"), default=_plain)
        write_whole(path, gzip.compress(text.encode(), 6, mtime=0))
    else:
        write_whole(path, (json.dumps(data, indent=1, default=_plain) + "\n").encode())


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else sorted(value)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file; a reader sees the old one or the whole new one.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    # Not a file of tempfile's: those are private, and a record is as readable as any file of the
    # user; to read the umask is to change it for every thread.
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
    """What a JSON file holds, compressed or not.

    Raises:
        RecordError: there is no such file, or it is not JSON.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from error
    return json_of(content, str(path))


def json_of(content: bytes, where: str) -> Any:
    """What the content of a JSON file says, compressed or not; ``where`` is for errors.

    Raises:
        RecordError: it is not JSON.
    """
    try:
        return json.loads(gzip.decompress(content) if content[:2] == _GZIP else content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RecordError(f"{where}: is damaged ({error}). {_ANEW}") from error
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{where}: is not JSON ({error}). {_ANEW}") from error
