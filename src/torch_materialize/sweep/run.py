"""Policies over many models: one row for each graph, and what they come to.

Every model is measured in a process of its own (:mod:`.workers`), so that this one
never runs a model's code.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..core.devices import HERE
from ..core.devices import find as find_device
from ..core.policy import PREDICTED, parse
from ..errors import TargetError
from ..models.names import check_target
from ..results.headline import plural
from ..versions import implementation, installed_versions
from .registry import CORPUS, select
from .rows import BASE, GraphRow, Job, ModelRow, Result, Settings
from .spec import KINDS, Kind, Mode
from .workers import results

__all__ = ["OWN", "WORSE", "Summary", "Sweep", "geomean", "jobs_for", "new_sweep", "run"]

#: The family of users' own models.
OWN = "own"

#: A graph counts as worse than stock from this ratio on: less is noise of sizes and alignment.
WORSE = 1.001


@dataclass(frozen=True)
class Summary:
    """One policy over all graphs; ratios are bytes of the fused kernels against stock's.

    Attributes:
        graphs: a forward and its backward count as one where the policy's forward keeps other
            tensors than stock's: one half pays for the other.
        worse: graphs that move more than stock by over 0.1%.
        gap: percent above the certified bound that 9 of 10 graphs do not exceed; None where
            the policy has no bound.
        seconds: wall time of a trial lowering with its planning: the median, and what 9 of 10
            graphs do not exceed.
        kept: bytes that forwards keep for their backwards against stock's, the geometric mean;
            None where no forward is known to keep any.
        peak: the peak of memory against stock's where it is the highest; None where not known.
    """

    policy: str
    graphs: int
    geomean: float
    best: float
    worst: float
    worse: int
    gap: float | None
    seconds: tuple[float, float]
    kept: float | None = None
    peak: float | None = None


@dataclass(frozen=True)
class Sweep:
    """What a sweep found so far; the table and the JSON file are made from this alone.

    ``date`` is the day on which it was begun.
    """

    settings: Settings
    versions: Mapping[str, str]
    date: str
    models: tuple[ModelRow, ...] = ()
    graphs: tuple[GraphRow, ...] = ()

    def has(self, job: Job) -> bool:
        """Whether a job was swept, whatever its end was."""
        return any((m.name, m.mode) == (job.name, job.mode) for m in self.models)

    def with_result(self, result: Result) -> Sweep:
        """With one more job, in the order of the corpus."""
        names = {model.name: number for number, model in enumerate(CORPUS)}
        kinds = [kind for kinds in KINDS.values() for kind in kinds]

        def place(row: GraphRow | ModelRow) -> tuple[object, ...]:
            order = (names.get(row.name, len(names)), row.name)
            if isinstance(row, ModelRow):
                return (*order, list(KINDS).index(row.mode))
            return (*order, row.index, kinds.index(row.kind))

        return replace(
            self,
            models=tuple(sorted((*self.models, result.model), key=place)),
            graphs=tuple(sorted((*self.graphs, *result.graphs), key=place)),
        )

    def graphs_of(self, model: ModelRow) -> list[GraphRow]:
        """What was measured of one model in one mode."""
        kinds = KINDS[model.mode]
        return [row for row in self.graphs if row.name == model.name and row.kind in kinds]

    def failures(self) -> list[ModelRow]:
        """The jobs that did not end well; some of their graphs may be there."""
        return [model for model in self.models if model.status != "ok"]

    def summary(self, policy: str) -> Summary | None:
        """The headline of a policy; None while there is no graph."""
        if not self.graphs:
            return None
        ratios = self._ratios(policy)
        kept = [share for row in self.graphs if (share := row.kept_ratio(policy)) is not None]
        peaks = [share for row in self.graphs if (share := row.peak_ratio(policy)) is not None]
        gaps = [gap for row in self.graphs if (gap := row.gap_percent(policy)) is not None]
        seconds = [row.seconds[policy] for row in self.graphs]
        return Summary(
            policy=policy,
            graphs=len(ratios),
            geomean=geomean(ratios),
            best=min(ratios),
            worst=max(ratios),
            worse=sum(ratio > WORSE for ratio in ratios),
            gap=_nine_of_ten(gaps) if gaps else None,
            seconds=(statistics.median(seconds), _nine_of_ten(seconds)),
            kept=geomean(kept) if kept else None,
            peak=max(peaks, default=None),
        )

    def _ratios(self, policy: str) -> list[float]:
        cut = {row.name for row in self.graphs if row.kept_ratio(policy) not in (None, 1.0)}
        moved: dict[str | int, list[int]] = {}
        for number, row in enumerate(self.graphs):
            is_half = row.name in cut and row.kind != "inference"
            both = moved.setdefault(row.name if is_half else number, [0, 0])
            both[0] += row.bytes[BASE]
            both[1] += row.bytes[policy]
        # One without a fused kernel moves nothing, whatever is chosen.
        return [after / before if before else 1.0 for before, after in moved.values()]


def geomean(ratios: Sequence[float]) -> float:
    """Geometric mean; 0 of nothing, and where a policy leaves no fused kernel."""
    if not ratios or min(ratios) <= 0:
        return 0.0
    return math.exp(math.fsum(map(math.log, ratios)) / len(ratios))


def _nine_of_ten(values: Sequence[float]) -> float:
    """The least value that at least 9 of 10 do not exceed."""
    # In integers: 0.9 * 10 is not safely 9.
    return sorted(values)[-(-9 * len(values) // 10) - 1]


def jobs_for(
    names: Sequence[str] = (), families: Collection[str] = (), kinds: Collection[Kind] = ()
) -> list[Job]:
    """The jobs of these models: all where nothing is named, without regard to what was swept.

    A name that the corpus does not have is a target as `compare` takes them; it is measured for
    inference, and for training where only such kinds are wanted.

    Raises:
        TargetError: there is no such model, family or file, or nothing is left.
    """
    known = {model.name for model in CORPUS}
    own = [name for name in dict.fromkeys(names) if name not in known]
    for target in own:
        check_target(target, known)
    models = select([name for name in names if name in known], families)
    if own and len(own) == len(set(names)):
        models = []
    jobs = [Job(m.name, m.family, mode, m.package) for m in models for mode in m.modes]
    inference = not kinds or "inference" in kinds
    mode: Mode = "inference" if inference else "training"
    jobs += [Job(name, OWN, mode, "") for name in own if not families]
    wanted = [job for job in jobs if not kinds or set(KINDS[job.mode]) & set(kinds)]
    if not wanted:
        raise TargetError(
            f"no model is left to sweep: found {plural(len(jobs), 'job')} of the names and "
            "families given, expected one with graphs of kind "
            f"{' or '.join(sorted(kinds)) or 'any'}. `torch-materialize sweep --list` shows what "
            "each model has."
        )
    return wanted


def new_sweep(
    device: str = "h200",
    policies: Sequence[str] = (),
    kinds: Collection[Kind] = (),
    *,
    verify: bool = False,
    **how: Any,
) -> Sweep:
    """An empty sweep of this device, these policies (all, and stock always) and these kinds.

    ``how`` are further fields of :class:`.rows.Settings`: sizes and tracing.

    Raises:
        TargetError: there is no such device.
        UnknownPolicyError: a policy is misspelt.
    """
    chosen = tuple(dict.fromkeys((BASE, *(str(parse(p)) for p in policies or PREDICTED))))
    every = tuple(kind for group in KINDS.values() for kind in group)
    settings = Settings(
        device=_device(device),
        policies=chosen,
        kinds=tuple(kind for kind in every if not kinds or kind in kinds),
        verify=verify,
        **how,
    )
    versions = installed_versions("timm", "diffusers")
    # The source's digest with it: a policy of the same version may be decided by other code.
    versions["torch-materialize"] = implementation()
    return Sweep(settings, versions, datetime.date.today().isoformat())


def _device(name: str) -> str:
    if name not in HERE:
        return find_device(name).name
    from ..inductor.read.at_hand import device_named  # it imports torch

    return device_named(name).name


def run(
    sweep: Sweep,
    jobs: Sequence[Job],
    *,
    at_once: int = 1,
    timeout: float = 900.0,
    dump: str = "",
    ended: Callable[[Sweep, ModelRow], None] = lambda _sweep, _model: None,
) -> Sweep:
    """Adds to ``sweep`` the results of those ``jobs`` that it does not have.

    ``at_once`` processes run at a time, each for at most ``timeout`` seconds.  ``dump`` is a folder
    for the captured graphs.  ``ended`` is called after each with the sweep so far, for whoever
    keeps it.

    Raises:
        UnsupportedTorchError: this torch cannot make a trial lowering.
    """
    # Imported here: it imports torch, and a misspelt word should answer fast.
    from ..inductor.contract import seams

    seams.require("compare")
    left = [job for job in jobs if not sweep.has(job)]
    # Closed, not left to be collected: an error in here keeps it, and with it the children.
    with contextlib.closing(results(left, sweep.settings, at_once, timeout, dump)) as found:
        for result in found:
            sweep = sweep.with_result(result)
            ended(sweep, result.model)
    return sweep
