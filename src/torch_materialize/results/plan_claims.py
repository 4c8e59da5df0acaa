"""What a target moves as planned: the file that a check in CI holds a changed model against.

A change of the model gives graphs of other keys, so claims are kept by target, and its lines are
recognized by their text: a line that only moved is the same line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import RecordError
from .base import Schema
from .explanation import graph_title
from .plan_file import Moved

__all__ = ["CLAIMS", "Claims", "GraphClaim", "Growth", "LineBytes", "claims_path", "growths"]


@dataclass(frozen=True)
class LineBytes:
    """Bytes that fused kernels read and write of what one line of the model makes.

    ``source`` is its ``file:line``, "" for the graph's inputs; ``text`` what the line says.
    """

    source: str
    text: str
    bytes: int

    @property
    def number(self) -> int:
        """The number of the line in its file; 0 where it is none."""
        number = self.source.rpartition(":")[2]
        return int(number) if number.isdigit() else 0

    @property
    def same(self) -> tuple[str, str]:
        """What recognizes the line when it has moved."""
        path, _, _ = self.source.rpartition(":")
        return Path(path).name, self.text or self.source


@dataclass(frozen=True)
class GraphClaim:
    """One graph of a target: of those of its ``place`` the one with this ``index``, as captured.

    Attributes:
        key: of its plan file.
        moved: what it moves; of a body in one call.
        lines: the model's lines that move it.
        caller: of the body of a higher-order operator that operator, else "".
        calls: how many calls of it the whole graph has.
    """

    kind: str
    index: int
    key: str
    moved: Moved
    lines: tuple[LineBytes, ...] = ()
    caller: str = ""
    calls: int = 1

    @property
    def place(self) -> tuple[str, str]:
        """What kind of graph it is, and whose body."""
        return self.kind, self.caller

    @property
    def title(self) -> str:
        """The kind of graph; of a body also whose it is, and how many calls it has."""
        return graph_title(self.kind, self.caller, self.calls)

    @property
    def bytes(self) -> int:
        """What it moves in all calls."""
        return self.moved.bytes * self.calls

    def moved_by_lines(self) -> tuple[LineBytes, ...]:
        """:attr:`lines`, with what they move in all calls."""
        return tuple(replace(line, bytes=line.bytes * self.calls) for line in self.lines)


@dataclass(frozen=True)
class Claims:
    """What one target moves on one device, as planned.

    Attributes:
        policy: the policy that decided.
        size: the options that size a model, and whether it is trained.
        versions: package -> version that it was planned with.
    """

    target: str
    device: str
    policy: str
    graphs: tuple[GraphClaim, ...]
    size: Mapping[str, int | str | None] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


CLAIMS = Schema(Claims, "plan-claims", 1)


@dataclass(frozen=True)
class Growth:
    """A graph that moves more bytes than was claimed; ``lines`` that move more, most first.

    Of a body it is what all calls move.  ``claimed`` is 0 for a graph that was not there.
    """

    graph: GraphClaim
    claimed: int
    lines: tuple[LineBytes, ...]

    @property
    def moved(self) -> int:
        """Bytes that it moves now."""
        return self.graph.bytes


def claims_path(folder: Path, target: str, device: str, *, training: bool) -> Path:
    """The file for a target's claims: named after it, so that people find it."""
    file, _, function = target.rpartition(":")
    name = f"{Path(file).stem}-{function}" if file.endswith(".py") else target
    mode = "-training" if training else ""
    return folder / f"{re.sub(r'[^A-Za-z0-9_.]+', '-', name)}{mode}-{device}.claims.json"


def growths(before: Claims, now: Claims) -> Iterator[Growth]:
    """Every graph that moves more bytes than was claimed.

    Raises:
        RecordError: the two are not of one target, device, policy and size.
    """
    differing = [
        f"{name}: claimed {getattr(before, name)}, now {getattr(now, name)}"
        for name in ("target", "device", "policy", "size")
        if getattr(before, name) != getattr(now, name)
    ]
    if differing:
        raise RecordError(
            f"the claims are of something else ({'; '.join(differing)}). Check with the options "
            "that they were written with, or write them anew."
        )
    known = {(one.place, one.index): one for one in before.graphs}
    for graph in now.graphs:
        claim = known.get((graph.place, graph.index))
        claimed, lines = (claim.bytes, claim.moved_by_lines()) if claim is not None else (0, ())
        if graph.bytes > claimed:
            yield Growth(graph, claimed, tuple(_more(lines, graph.moved_by_lines())))


def _more(before: tuple[LineBytes, ...], now: tuple[LineBytes, ...]) -> list[LineBytes]:
    """Lines that move more than they did, by how much, most first; at their place of now.

    A line with another text is held against the one that it replaced: of those that are only in
    one of the two the first of a file against its first, and so on.
    """
    old, new = _by_text(before), _by_text(now)
    gone = {file: [same for same in old if same[0] == file and same not in new] for file, _ in new}
    more = []
    for same, line in new.items():
        instead = gone[same[0]].pop(0) if same not in old and gone[same[0]] else same
        had = old[instead].bytes if instead in old else 0
        if line.bytes > had:
            more.append(LineBytes(line.source, line.text, line.bytes - had))
    return sorted(more, key=lambda line: -line.bytes)


def _by_text(lines: tuple[LineBytes, ...]) -> dict[tuple[str, str], LineBytes]:
    """What is recognized as one line, in the order of their places."""
    found: dict[tuple[str, str], LineBytes] = {}
    for line in sorted(lines, key=lambda one: one.number):
        so_far = found[line.same].bytes if line.same in found else 0
        found[line.same] = LineBytes(line.source, line.text, so_far + line.bytes)
    return found
