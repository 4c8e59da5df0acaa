"""How upstream's tests ended with stock and with a policy, as a file; see ``docs/record.md``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch_materialize.core.policy import Policy, parse
from torch_materialize.results.base import Schema, check_same
from torch_materialize.versions import implementation, installed_versions

__all__ = ["FINE", "RUN", "Change", "TestOutcome", "UpstreamRun", "file_of", "resume"]

#: Outcomes of tests that did not fail.
FINE = frozenset({"passed", "skipped", "xfailed", "xpassed"})
# What differs between two messages of one failure: addresses, paths, times, numbers.
_VARIES = re.compile(r"0x[0-9a-f]+|/\S+|\d+(?:\.\d+)?(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class TestOutcome:
    """How one test ended, in ``seconds`` of wall time; docs/record.md has the words."""

    __test__ = False  # its name is no test's, pytest

    outcome: str
    message: str = ""
    seconds: float = 0.0
    numbers: tuple[tuple[int, int], ...] = ()
    graphs: int = 0
    acted: int = 0

    @property
    def headline(self) -> str:
        """The first line of the message; the outcome where there is none."""
        return next((line for line in self.message.splitlines() if line.strip()), self.outcome)


@dataclass(frozen=True)
class Change:
    """A test that ends otherwise under the policy; docs/record.md has what ``how`` may be."""

    test: str
    how: str
    stock: str
    policy: str
    message: str = ""
    is_worse: bool = False


@dataclass
class UpstreamRun:
    """Both runs over the chosen files, by test; docs/record.md has the fields.

    Raises:
        UnknownPolicyError: the policy is misspelt.
    """

    policy: Policy | str
    files: tuple[str, ...]
    device: str = "cpu"
    select: str = ""
    stock: dict[str, TestOutcome] = field(default_factory=dict)
    governed: dict[str, TestOutcome] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    finished: set[tuple[str, str]] = field(default_factory=set)
    seconds: float = 0.0
    versions: Mapping[str, str] = field(
        default_factory=lambda: {**installed_versions(), "torch-materialize": implementation()}
    )

    def __post_init__(self) -> None:
        self.policy = parse(self.policy)  # a file has its name

    def unproven(self, file: str) -> str:
        """Why a file's tests say nothing of a policy; "" where they do, or not all have ended."""
        if (file, "stock") not in self.finished:
            return ""
        ended = [one for test, one in self.stock.items() if file_of(test) == file]
        ran = [one for one in ended if one.outcome != "skipped"]
        failed = [one for one in ran if one.outcome not in FINE]
        if not ran:
            return f"all of its {len(ended)} tests are skipped" if ended else "no test ran"
        if 2 * len(failed) <= len(ran):
            return ""
        return f"{len(failed)} of {len(ran)} tests fail with stock: {failed[0].headline}"

    def changes(self) -> list[Change]:
        """What differs among tests that ended with both, or ran with one only."""
        over = {name for name, side in self.finished if side == "governed"}
        both = [t for t in self.stock if t in self.governed or file_of(t) in over]
        new = [t for t in self.governed if t not in self.stock]
        return [change for test in (*both, *new) for change in self._changes(test)]

    def _changes(self, test: str) -> Iterator[Change]:
        missing = TestOutcome("missing")
        stock, ours = self.stock.get(test, missing), self.governed.get(test, missing)
        if stock.outcome != ours.outcome:
            fine = stock.outcome in FINE, ours.outcome in FINE
            how = {(True, False): "worse", (False, True): "better"}.get(fine, "other")
            yield Change(test, how, stock.outcome, ours.outcome, ours.message, how == "worse")
        elif stock.outcome in ("failed", "error") and _differ(stock.headline, ours.headline):
            yield Change(test, "fails otherwise", stock.headline, ours.headline, ours.message)
        elif len(stock.numbers) != len(ours.numbers):
            yield Change(test, "other", f"{len(stock.numbers)} byte counts", f"{len(ours.numbers)}")
        for (_, before), (_, after) in zip(stock.numbers, ours.numbers, strict=False):
            if before != after:
                how = "fewer bytes" if after < before else "more bytes"
                # A choice at random promises nothing about bytes.
                worse = after > before and self.policy.limits != "random"
                yield Change(test, how, str(before), str(after), is_worse=worse)

    def failing_with_both(self) -> dict[str, TestOutcome]:
        """Tests that fail with stock and with the policy: with what they say under the policy."""
        failing = {test for test, one in self.stock.items() if one.outcome not in FINE}
        ours = self.governed.items()
        return {test: one for test, one in ours if test in failing and one.outcome not in FINE}

    @property
    def graphs(self) -> tuple[int, int]:
        """How many graphs were planned, and in how many of them the plan acted."""
        outcomes = self.governed.values()
        return sum(one.graphs for one in outcomes), sum(one.acted for one in outcomes)

    @property
    def got_worse(self) -> bool:
        """Whether any test got worse, or the tests of a file prove nothing."""
        unproven = any(self.unproven(name) for name in self.files)
        return not self.stock or unproven or any(change.is_worse for change in self.changes())


def file_of(test: str) -> str:
    """The name of the file that a test is in, which is ``folders/file.py::class::name``."""
    return test.partition("::")[0].rpartition("/")[2]


def _differ(one: str, other: str) -> bool:
    return _VARIES.sub("#", one) != _VARIES.sub("#", other)


def _derived(run: UpstreamRun) -> dict[str, Any]:
    """What is to be said of the outcomes; and the policy as people write it."""
    unproven = {name: why for name in run.files if (why := run.unproven(name))}
    sides = [(name, side) for name in run.files for side in ("stock", "governed")]
    return {
        "policy": str(run.policy),
        "complete": all(one in run.finished or one[0] in unproven for one in sides),
        "finished": sorted(run.finished),
        "graphs": dict(zip(("planned", "acted"), run.graphs, strict=True)),
        "unproven": unproven,
        "changes": [asdict(change) for change in run.changes()],
        "failing_with_both": {test: one.message for test, one in run.failing_with_both().items()},
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
    old.stock, old.governed = (
        {test: one for test, one in side.items() if file_of(test) in new.files}
        for side in (old.stock, old.governed)
    )
    return old
