"""What a sweep wants of one model and what it gets back; passed between processes as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .spec import Kind, Mode

__all__ = [
    "BASE",
    "GraphRow",
    "Job",
    "Measured",
    "ModelRow",
    "Request",
    "Result",
    "Settings",
    "Status",
]

#: The policy that ratios are taken against.
BASE = "stock"

#: ``missing``: the package that the model comes from is not installed.
Status = Literal["ok", "error", "crash", "timeout", "missing"]


@dataclass(frozen=True)
class Job:
    """One model in one mode: what one child process measures.

    ``package`` is where the model comes from, "" for a user's own ``file.py:function``; ``path`` is
    the file or the folder of a graph that somebody has captured, "" for a model.
    """

    name: str
    family: str
    mode: Mode
    package: str
    path: str = ""


@dataclass(frozen=True)
class Settings:
    """What figures depend on beside the versions; a sweep is only resumed with equal ones.

    Attributes:
        kinds: graphs of other kinds are captured where they must be, and not measured.
        smallest_nodes: graphs of fewer nodes (leftovers of graph breaks) are left out.
        seed: of the random numbers that a model's constructor may draw.
        verify: every plan is lowered once more, by upstream's own class; one that moves other bytes
            or has other kernels than was claimed is an error.
        tokens, batch, layers: sizes of the targets that have them and are not of the corpus.
        tracing: ``dynamo`` or ``make_fx``.
    """

    device: str
    policies: tuple[str, ...]
    kinds: tuple[Kind, ...] = ("inference", "forward", "backward")
    smallest_nodes: int = 50
    seed: int = 0
    verify: bool = False
    tokens: int = 8192
    batch: int = 1
    layers: int | None = None
    tracing: str = "dynamo"


@dataclass(frozen=True)
class Request:
    """What a child process is to do.

    ``output`` is the file for its :class:`Measured`; ``dump`` a folder for the graphs, "" for none.
    """

    job: Job
    settings: Settings
    output: str
    dump: str = ""


@dataclass(frozen=True)
class GraphRow:
    """One post-grad graph under every policy.

    Attributes:
        index: counts the graphs of a kind, from 0: Dynamo may break a model into several.
        bytes: policy -> bytes that its fused kernels read and write; of a body of a higher-order
            operator in all of its calls.
        kernels: policy -> number of fused kernels.
        bounds: policy -> certified lower bound in bytes, for the policies that have one.
        seconds: policy -> wall time of its trial lowering: planning and certifying included, and of
            the first policy also what a process pays once.
        peaks: policy -> most bytes alive at once, inputs and outputs counted.
        kept: of a forward, policy -> bytes that it keeps for its backward; empty where not known.
        gaps: policy -> why it moves more than its bound (:func:`.gap_parts`); empty in files of
            older versions.
        left: policy -> why it has no plan for the graph and leaves it to stock.
    """

    name: str
    family: str
    kind: Kind
    index: int
    nodes: int
    bytes: Mapping[str, int]
    kernels: Mapping[str, int]
    bounds: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    peaks: Mapping[str, int] = field(default_factory=dict)
    kept: Mapping[str, int] = field(default_factory=dict)
    gaps: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)

    def kept_ratio(self, policy: str) -> float | None:
        """Bytes kept for the backward against stock's; None where that is not known."""
        base = self.kept.get(BASE)
        return self.kept[policy] / base if base and policy in self.kept else None

    def peak_ratio(self, policy: str) -> float | None:
        """The peak of memory against stock's; None where that is not known."""
        base = self.peaks.get(BASE)
        return self.peaks[policy] / base if base and policy in self.peaks else None

    def ratio(self, policy: str) -> float:
        """Bytes against stock's; 1 where stock has no fused kernel that could move any."""
        base = self.bytes[BASE]
        return self.bytes[policy] / base if base else 1.0

    def gap_percent(self, policy: str) -> float | None:
        """How far a policy is above its own lower bound; None where it has none."""
        bound = self.bounds.get(policy)
        return (self.bytes[policy] / bound - 1) * 100 if bound else None

    def gap_reason(self, policy: str) -> str:
        """What most of the gap is due to: a rule, ``open``, or "" where that is not known."""
        parts = self.gaps.get(policy, {})
        return max(parts, key=parts.__getitem__, default="")


@dataclass(frozen=True)
class Measured:
    """What a child process has found so far; ``done`` once nothing more will come."""

    graphs: tuple[GraphRow, ...] = ()
    errors: tuple[str, ...] = ()
    done: bool = False


@dataclass(frozen=True)
class ModelRow:
    """How the measuring of one model in one mode ended; ``seconds`` is its process's wall time."""

    name: str
    family: str
    mode: Mode
    status: Status
    message: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Result:
    """All about one job: how it ended, and the graphs that were measured until then."""

    model: ModelRow
    graphs: tuple[GraphRow, ...] = ()
