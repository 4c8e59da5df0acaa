"""The file of a run of upstream's tests, and going on with one; ``docs/record.md`` describes it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch_materialize.results.base import Schema, check_same
from upstream.run import UpstreamRun, file_of

__all__ = ["RUN", "resume"]


def _derived(result: UpstreamRun) -> dict[str, Any]:
    """What is to be said of the outcomes; and the policy as people write it."""
    planned, acted = result.graphs
    failing = result.failing_with_both()
    return {
        "policy": str(result.policy),
        "complete": result.is_complete,
        "finished": sorted(result.finished),
        "graphs": {"planned": planned, "acted": acted},
        "unproven": {name: why for name in result.files if (why := result.unproven(name))},
        "changes": [asdict(change) for change in result.changes()],
        "failing_with_both": {test: one.message for test, one in failing.items()},
    }


RUN = Schema(UpstreamRun, "upstream-tests", 2, _derived)


def resume(path: Path, new: UpstreamRun) -> UpstreamRun:
    """What the file has, to go on with as ``new`` was going to; ``new`` where there is no file.

    Files that ``new`` does not name are left out, those that the file has not are added.

    Raises:
        RecordError: it is no file of a run, or of one with other versions, policy, device or
            selection, whose outcomes cannot stand beside new ones.
    """
    if not path.exists():
        return new
    old = RUN.load(path)
    found, expected = (
        {"policy": one.policy, "device": one.device, "select": one.select, **one.versions}
        for one in (old, new)
    )
    check_same(path, found, expected)
    old.files = new.files
    for side in (old.stock, old.governed):
        for test in [test for test in side if file_of(test) not in new.files]:
            del side[test]
    return old
