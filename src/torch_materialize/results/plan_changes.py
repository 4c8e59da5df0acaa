"""What two plan files, or two folders of them, decide otherwise, by line of the model."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import RecordError
from .plan_claims import CLAIMS
from .plan_file import PLAN_FILE, SUFFIX, PlanFile, PlannedNode

__all__ = ["Changed", "changes"]


@dataclass(frozen=True)
class Changed:
    """One line of the model for which two plans decide otherwise.

    Attributes:
        graph: whose graph it is, as both sides call it.
        source: ``file:line`` on the side that has it, of the second where both do.
        value: operator, dtype and shape.
        before, after: what was decided, and how often: ``2 realized``; "inlined" for nothing.
    """

    graph: str
    source: str
    value: str
    before: str
    after: str


def changes(a: Path, b: Path) -> list[Changed]:
    """What two plan files, or two folders of them, decide otherwise, by line of the model.

    Graphs of folders are the same where their keys are, or, where a target's claims are in both,
    by their place in the target.

    Raises:
        RecordError: a file cannot be read, or one side is a folder and the other a file.
    """
    return [change for name, one, other in _pairs(a, b) for change in _changed(name, one, other)]


def _pairs(a: Path, b: Path) -> Iterator[tuple[str, PlanFile | None, PlanFile | None]]:
    if a.is_dir() != b.is_dir():
        raise RecordError(
            f"{a} and {b}: expected two folders of plan files or two plan files; found one of each."
        )
    if not a.is_dir():
        one, other = PLAN_FILE.load(a), PLAN_FILE.load(b)
        yield other.kind, one, other
        return
    places = _places(a), _places(b)
    known = [
        {path.name.removesuffix(SUFFIX): path for path in sorted(side.glob(f"*{SUFFIX}"))}
        for side in (a, b)
    ]
    for side, folder in zip(known, (a, b), strict=True):
        if not side:
            raise RecordError(f"{folder}: expected plan files (*{SUFFIX}); found none.")
    read = functools.cache(PLAN_FILE.load)
    done: set[str] = set()
    for name in {**places[0], **places[1]}:
        keys = places[0].get(name, ""), places[1].get(name, "")
        done |= set(keys)
        sides = [
            read(side[key]) if key in side else None for side, key in zip(known, keys, strict=True)
        ]
        yield name, sides[0], sides[1]
    for key in sorted({**known[0], **known[1]}):
        if key not in done:
            sides = [read(side[key]) if key in side else None for side in known]
            yield next(one.kind for one in sides if one) + f" {key[:8]}", sides[0], sides[1]


def _places(folder: Path) -> dict[str, str]:
    """Target, kind and index of graphs -> their key."""
    found = {}
    for path in sorted(folder.glob("*.claims.json")):
        claims = CLAIMS.load(path)
        for graph in claims.graphs:
            kind = " body of ".join(filter(None, graph.place))
            name = f"{claims.target} on {claims.device}, {kind}"
            found[f"{name} {graph.index + 1}" if graph.index else name] = graph.key
    return found


def _changed(name: str, one: PlanFile | None, other: PlanFile | None) -> Iterator[Changed]:
    if one is None or other is None:
        yield Changed(name, "", "", *("no plan" if x is None else "a plan" for x in (one, other)))
        return
    if one.planned != other.planned:
        words = ("planned" if x.planned else "left to stock" for x in (one, other))
        yield Changed(name, "", "", *words)
    if one.settings != other.settings:
        settings = (", ".join(x.settings) or "no setting is on" for x in (one, other))
        yield Changed(name, "", "", *settings)
    before, after = _by_line(one), _by_line(other)
    for line in sorted({**before, **after}):
        texts = [_decided(side.get(line, [])) for side in (before, after)]
        if texts[0] != texts[1]:
            yield Changed(name, line[0], line[1], *texts)


def _by_line(plan: PlanFile) -> dict[tuple[str, str], list[PlannedNode]]:
    found: dict[tuple[str, str], list[PlannedNode]] = {}
    for one in plan.decisions:
        value = f"{one.operator} {one.value}"
        found.setdefault((one.source or one.module, value), []).append(one)
    return found


def _decided(nodes: Sequence[PlannedNode]) -> str:
    counts = Counter(word for one in nodes for word in one.decided if word != "written")
    counts["written"] = sum(one.decided == ("written",) for one in nodes)
    shown = [f"{count} {word}" for word, count in sorted(counts.items()) if count]
    return ", ".join(shown) or "inlined"
