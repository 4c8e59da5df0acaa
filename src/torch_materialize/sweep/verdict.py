"""The verdict over all models of a sweep: whom a policy helps, by how much, and whom it harms."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ..results.headline import plural
from .rows import BASE
from .run import WORSE, Sweep, geomean

__all__ = ["SweepState", "SweepVerdict", "verdict_of"]


class SweepState(Enum):
    """What a policy comes to over all models."""

    GAIN = "gain"  # some move fewer bytes than under stock, and none more
    MIXED = "mixed"  # some move fewer, and some more
    NOTHING = "nothing"  # none moves fewer
    EMPTY = "empty"  # nothing was measured, or stock alone


@dataclass(frozen=True)
class SweepVerdict:
    """One policy over the models of a sweep.  A model's bytes are those of all of its graphs.

    Attributes:
        models: how many were measured.
        gaining: of them, those that move less than under stock by more than 0.1%.
        worse: those that move more by more than 0.1%.
        geomean: of the models' bytes, each against stock's.
        best, worst: name and ratio of the models that gain most and least.
        failed: models and modes that were not measured, or not wholly.
    """

    state: SweepState
    policy: str
    device: str
    models: int
    gaining: int
    worse: int
    geomean: float
    best: tuple[str, float]
    worst: tuple[str, float]
    failed: int

    def sentences(self) -> list[str]:
        """The verdict in two or three sentences."""
        if self.state is SweepState.EMPTY:
            said = ["Nothing was measured."]
        else:
            share = f"{self.gaining / self.models:.0%}"
            said = [
                f"`{self.policy}` moves less than {BASE} for {self.gaining} of "
                f"{plural(self.models, 'model')} ({share}) on {self.device}, in the geometric mean "
                f"x{self.geomean:.3f} of its bytes.",
                f"Best: x{self.best[1]:.3f} ({self.best[0]}); worst: x{self.worst[1]:.3f} "
                f"({self.worst[0]}); {plural(self.worse, 'model') if self.worse else 'none'} worse "
                f"than {BASE}.",
            ]
        if self.failed:
            said.append(f"{plural(self.failed, 'job')} ended without all of its figures.")
        return said

    def next_command(self) -> str:
        """What to type next; "" where nothing was measured."""
        if self.state is SweepState.EMPTY:
            return ""
        name = self.worst[0] if self.worse else self.best[0]
        return f"torch-materialize compare {name} --device {self.device}"


def verdict_of(sweep: Sweep, policy: str = "") -> SweepVerdict:
    """The verdict on a policy, or on the sweep's last, which is the one to recommend."""
    chosen = policy or (sweep.settings.policies or (BASE,))[-1]
    moved: dict[str, list[int]] = {}
    for row in sweep.graphs:
        both = moved.setdefault(row.name, [0, 0])
        both[0] += row.bytes[BASE]
        both[1] += row.bytes[chosen]
    # One without a fused kernel moves nothing, whatever is chosen.
    ratios = {name: after / before if before else 1.0 for name, (before, after) in moved.items()}
    order = sorted(ratios, key=lambda name: (ratios[name], name))
    gaining = sum(ratio < 2 - WORSE for ratio in ratios.values())
    worse = sum(ratio > WORSE for ratio in ratios.values())
    return SweepVerdict(
        state=_state(chosen != BASE and bool(ratios), gaining, worse),
        policy=chosen,
        device=sweep.settings.device,
        models=len(ratios),
        gaining=gaining,
        worse=worse,
        geomean=geomean(list(ratios.values())),
        best=(order[0], ratios[order[0]]) if order else ("", 1.0),
        worst=(order[-1], ratios[order[-1]]) if order else ("", 1.0),
        failed=len(sweep.failures()),
    )


def _state(is_measured: bool, gaining: int, worse: int) -> SweepState:
    if not is_measured:
        return SweepState.EMPTY
    if not gaining:
        return SweepState.NOTHING
    return SweepState.MIXED if worse else SweepState.GAIN
