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
from pathlib import Path

from ..core.devices import find as find_device
from ..core.policy import PREDICTED, parse
from ..errors import TargetError
from ..versions import implementation, installed_versions
from .registry import CORPUS, select
from .rows import BASE, GraphRow, Job, ModelRow, Result, Settings
from .spec import KINDS, Kind
from .workers import results

__all__ = ["OWN", "Summary", "Sweep", "jobs_for", "new_sweep", "run"]

#: The family of users' own models.
OWN = "own"

#: A graph counts as worse than stock from this ratio on: less is noise of sizes and alignment.
_WORSE = 1.001


@dataclass(frozen=True)
class Summary:
    """One policy over all graphs; ratios are bytes of the fused kernels against stock's.

    Attributes:
        worse: graphs that move more than stock by over 0.1%.
        gap: percent above the certified bound that 9 of 10 graphs do not exceed; None where
            the policy has no bound.
        seconds: wall time of a trial lowering with its planning: the median, and what 9 of 10
            graphs do not exceed.
    """

    policy: str
    graphs: int
    geomean: float
    best: float
    worst: float
    worse: int
    gap: float | None
    seconds: tuple[float, float]


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
        ratios = [row.ratio(policy) for row in self.graphs]
        gaps = [gap for row in self.graphs if (gap := row.gap_percent(policy)) is not None]
        seconds = [row.seconds[policy] for row in self.graphs]
        return Summary(
            policy=policy,
            graphs=len(ratios),
            geomean=_geomean(ratios),
            best=min(ratios),
            worst=max(ratios),
            worse=sum(ratio > _WORSE for ratio in ratios),
            gap=_nine_of_ten(gaps) if gaps else None,
            seconds=(statistics.median(seconds), _nine_of_ten(seconds)),
        )


def _geomean(ratios: Sequence[float]) -> float:
    # A policy may leave a graph without a fused kernel; its logarithm has no end.
    if min(ratios) <= 0:
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

    A name with a colon is a user's own ``file.py:function``, for inference.

    Raises:
        TargetError: there is no such model, family or file, or nothing is left.
    """
    own = [name for name in dict.fromkeys(names) if ":" in name]
    for target in own:
        path = Path(target.rpartition(":")[0])
        if not path.is_file():
            raise TargetError(f"target {target!r}: there is no file {path}")
    known = [name for name in names if ":" not in name]
    models = select(known, families) if known or not own else []
    jobs = [Job(m.name, m.family, mode, m.package) for m in models for mode in m.modes]
    jobs += [Job(name, OWN, "inference", "") for name in own if not families]
    wanted = [job for job in jobs if not kinds or set(KINDS[job.mode]) & set(kinds)]
    if not wanted:
        raise TargetError(
            f"no model is left to sweep: found {len(jobs)} jobs of the names and families "
            f"given, expected one with graphs of kind {' or '.join(sorted(kinds)) or 'any'}. "
            "`torch-materialize sweep --list` shows what each model has."
        )
    return wanted


def new_sweep(
    device: str = "h200",
    policies: Sequence[str] = (),
    kinds: Collection[Kind] = (),
    *,
    verify: bool = False,
) -> Sweep:
    """An empty sweep of this device, these policies (all, and stock always) and these kinds.

    Raises:
        TargetError: there is no such device.
        UnknownPolicyError: a policy is misspelt.
    """
    chosen = tuple(dict.fromkeys((BASE, *(str(parse(p)) for p in policies or PREDICTED))))
    every = tuple(kind for group in KINDS.values() for kind in group)
    settings = Settings(
        device=find_device(device).name,
        policies=chosen,
        kinds=tuple(kind for kind in every if not kinds or kind in kinds),
        verify=verify,
    )
    versions = installed_versions("timm", "diffusers")
    # The source's digest with it: a policy of the same version may be decided by other code.
    versions["torch-materialize"] = implementation()
    return Sweep(settings, versions, datetime.date.today().isoformat())


def run(
    sweep: Sweep,
    jobs: Sequence[Job],
    *,
    at_once: int = 1,
    timeout: float = 900.0,
    ended: Callable[[Sweep, ModelRow], None] = lambda _sweep, _model: None,
) -> Sweep:
    """Adds to ``sweep`` the results of those ``jobs`` that it does not have.

    ``at_once`` processes run at a time, each for at most ``timeout`` seconds.  ``ended`` is
    called after each with the sweep so far, for whoever keeps it.

    Raises:
        UnsupportedTorchError: this torch cannot make a trial lowering.
    """
    # Imported here: it imports torch, and a misspelt word should answer fast.
    from ..inductor.contract import seams

    seams.require("compare")
    left = [job for job in jobs if not sweep.has(job)]
    # Closed, not left to be collected: an error in here keeps it, and with it the children.
    with contextlib.closing(results(left, sweep.settings, at_once, timeout)) as found:
        for result in found:
            sweep = sweep.with_result(result)
            ended(sweep, result.model)
    return sweep
