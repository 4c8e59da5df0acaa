"""The JSON file of a sweep, and whether a sweep may go on with one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..results.base import Schema, check_same
from .rows import GraphRow
from .run import Sweep
from .verdict import verdict_of

__all__ = ["SWEEP", "resume"]


def _derived(sweep: Sweep) -> dict[str, Any]:
    """The headlines, and in every row its figures against stock and the bound."""
    summaries = map(sweep.summary, sweep.settings.policies)
    verdict = verdict_of(sweep)
    return {
        "verdict": {
            **asdict(verdict),
            "state": verdict.state.value,
            "text": " ".join(verdict.sentences()),
        },
        "summary": [asdict(found) for found in summaries if found is not None],
        "graphs": [_row(row) for row in sweep.graphs],
    }


def _row(row: GraphRow) -> dict[str, Any]:
    gaps = {policy: row.gap_percent(policy) for policy in row.bytes}
    return {
        **asdict(row),
        "ratios": {policy: round(row.ratio(policy), 6) for policy in row.bytes},
        "gaps_percent": {p: round(gap, 4) for p, gap in gaps.items() if gap is not None},
    }


SWEEP = Schema(Sweep, "sweep", 1, _derived)


def resume(path: Path, sweep: Sweep) -> Sweep:
    """What the file has, to go on with as ``sweep`` was going to; ``sweep`` where none is.

    Raises:
        RecordError: the file is no sweep, or is one of other versions or settings, whose rows
            cannot stand beside new ones.
    """
    if not path.exists():
        return sweep
    old = SWEEP.load(path)
    found, expected = ({**one.versions, **asdict(one.settings)} for one in (old, sweep))
    check_same(path, found, expected)
    return old
