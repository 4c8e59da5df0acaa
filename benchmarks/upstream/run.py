"""PyTorch's own tests of Inductor, run with stock and with a policy on.

Takes a checkout that the user has; nothing of it is copied.  Each file runs in processes of its
own (:mod:`.process`), once with stock and once with the policy.  A file most of whose
tests fail with stock already proves nothing and is an error, whatever the policy does.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch_materialize.core.policy import STOCK, Policy, parse
from torch_materialize.errors import TargetError
from torch_materialize.versions import implementation, installed_versions
from upstream.process import TestFile, TestOutcome

__all__ = [
    "BYTE_COUNTS",
    "Change",
    "Progress",
    "TestOutcome",
    "UpstreamRun",
    "file_of",
    "find_tests",
    "run",
]

#: Test files whose expected numbers are bytes, or tensor elements, that kernels move.
BYTE_COUNTS = ("test_perf.py",)
_FINE = frozenset({"passed", "skipped", "xfailed", "xpassed"})
_BROKEN = frozenset({"failed", "error"})
# What differs between two tellings of one failure: addresses, paths, times, numbers.
_VARIES = re.compile(r"0x[0-9a-f]+|/\S+|\d+(?:\.\d+)?(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class Change:
    """A test that ends otherwise under the policy; ``how`` says in which way.

    ``worse``, ``better``, ``other``, ``fewer bytes``, ``more bytes``, or ``fails otherwise``: with
    both, but for another reason.
    """

    test: str
    how: str
    stock: str
    policy: str
    message: str = ""
    is_worse: bool = False


@dataclass(frozen=True)
class Progress:
    """Where a run is: ``done`` of ``total`` tests of a file under a policy, ``failed`` of them."""

    file: str
    policy: Policy
    done: int
    total: int
    failed: int
    ended: bool = False


def _versions() -> dict[str, str]:
    return {**installed_versions(), "torch-materialize": implementation()}


@dataclass
class UpstreamRun:
    """Both runs over the chosen files, by test; ``warnings`` are ours, under the policy.

    Attributes:
        device: what the tests run on, ``cpu`` or ``cuda``.
        select: as pytest's ``-k``.
        finished: (file, ``stock`` or ``governed``) for each side all of whose tests have ended.
        seconds: wall time.
        versions: package -> version, and of ours a digest of the code that decides.

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
    versions: Mapping[str, str] = field(default_factory=_versions)

    def __post_init__(self) -> None:
        self.policy = parse(self.policy)  # a file has its name

    @property
    def is_complete(self) -> bool:
        """Whether everything ran that was to: under the policy, what can be compared."""
        return all(
            (name, "stock") in self.finished
            and (self.unproven(name) or (name, "governed") in self.finished)
            for name in self.files
        )

    def unproven(self, file: str) -> str:
        """Why a file's tests say nothing of a policy; "" where they do, or none has ended."""
        ended = {test: one for test, one in self.stock.items() if file_of(test) == file}
        ran = [one for one in ended.values() if one.outcome != "skipped"]
        failed = [one for one in ran if one.outcome not in _FINE]
        if (file, "stock") not in self.finished:
            return ""
        if not ran:
            return f"all of its {len(ended)} tests are skipped" if ended else "no test ran"
        if 2 * len(failed) <= len(ran):
            return ""
        return f"{len(failed)} of {len(ran)} tests fail with stock: {failed[0].headline}"

    def changes(self) -> list[Change]:
        """What differs among tests that ended with both, in the order of the files."""
        both = [test for test in self.stock if test in self.governed]
        over = {name for name, side in self.finished if side == "governed"}
        lost = [t for t in self.stock if t not in self.governed and file_of(t) in over]
        new = [t for t in self.governed if t not in self.stock]
        missing = TestOutcome("missing")
        return [
            change
            for test in (*both, *lost, *new)
            for change in self._changes(
                test, self.stock.get(test, missing), self.governed.get(test, missing)
            )
        ]

    def _changes(self, test: str, stock: TestOutcome, ours: TestOutcome) -> Iterator[Change]:
        if stock.outcome != ours.outcome:
            fine = stock.outcome in _FINE, ours.outcome in _FINE
            how = {(True, False): "worse", (False, True): "better"}.get(fine, "other")
            yield Change(test, how, stock.outcome, ours.outcome, ours.message, how == "worse")
        elif stock.outcome in _BROKEN and _alike(stock.headline) != _alike(ours.headline):
            yield Change(test, "fails otherwise", stock.headline, ours.headline, ours.message)
        elif len(stock.numbers) != len(ours.numbers):
            counts = f"{len(stock.numbers)} byte counts", f"{len(ours.numbers)}"
            yield Change(test, "other", *counts)
        for (_, before), (_, after) in zip(stock.numbers, ours.numbers, strict=False):
            if before != after:
                how = "fewer bytes" if after < before else "more bytes"
                # A choice at random promises nothing about bytes.
                worse = after > before and self.policy.limits != "random"
                yield Change(test, how, str(before), str(after), is_worse=worse)

    def failing_with_both(self) -> dict[str, TestOutcome]:
        """Tests that fail with stock and with the policy: with what they say under the policy."""
        return {
            test: ours
            for test, ours in self.governed.items()
            if ours.outcome not in _FINE
            and self.stock.get(test, TestOutcome("passed")).outcome not in _FINE
        }

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


def _alike(headline: str) -> str:
    return _VARIES.sub("#", headline)


def find_tests(checkout: Path, files: Sequence[str]) -> list[Path]:
    """The test files in a checkout of PyTorch, or in a folder of tests.

    Raises:
        TargetError: there is no such folder or file.
    """
    folder = checkout / "test" / "inductor"
    if not folder.is_dir():
        folder = checkout
    found = [folder / name for name in dict.fromkeys(files)]
    for path in found:
        if not path.is_file():
            raise TargetError(
                f"{path}: no such test file. Expected CHECKOUT to be a checkout of PyTorch (with "
                f"test/inductor) or a folder of test files; found "
                f"{'no folder' if not checkout.is_dir() else 'a folder without it'}."
            )
    return found


def run(
    result: UpstreamRun,
    files: Sequence[Path],
    *,
    timeout: float = 300.0,
    byte_counts: Sequence[str] = BYTE_COUNTS,
    told: Callable[[Progress], None] = lambda _progress: None,
    stopped: Callable[[], bool] = lambda: False,
) -> UpstreamRun:
    """Runs every file with stock and with the policy, and writes into ``result`` as tests end.

    What ``result`` has already is not run again.  A file that proves nothing with stock is not
    run with the policy.

    Args:
        timeout: seconds for one test.
        byte_counts: names of files whose expected numbers are bytes.
        told: hears of each test that ends, and of each file.
        stopped: is asked some times a second; once true, the tests that run are ended and the
            call returns with what there is.
    """
    started, before = time.monotonic(), result.seconds
    for path in files:
        for side, policy in (("stock", STOCK), ("governed", result.policy)):
            outcomes = result.stock if side == "stock" else result.governed
            if (path.name, side) in result.finished or result.unproven(path.name):
                continue
            one = TestFile(path, policy, result.device, result.select, timeout, byte_counts)

            def heard(
                total: int,
                ended: bool,
                name: str = path.name,
                chosen: Policy = policy,
                seen: Mapping[str, TestOutcome] = outcomes,
            ) -> None:
                own = [x for test, x in seen.items() if file_of(test) == name]
                failed = sum(x.outcome not in _FINE for x in own)
                result.seconds = round(before + time.monotonic() - started, 1)
                told(Progress(name, chosen, len(own), max(total, len(own)), failed, ended))

            done = one.run(outcomes, heard, stopped)
            result.warnings += [text for text in one.warnings if text not in result.warnings]
            if not done:
                return result
            result.finished.add((path.name, side))
            heard(0, True)
    return result
