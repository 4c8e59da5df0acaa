"""What `compare` found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..core.graph import Graph, Kernel
from ..core.traffic import Difference, Traffic, differences, most_read, traffic

__all__ = ["CapturedGraph", "Comparison"]


@dataclass(frozen=True)
class CapturedGraph:
    """One post-grad graph (of several, where Dynamo breaks) and its kernels per policy.

    ``bounds`` holds certified lower bounds in bytes, for the policies that have one.
    """

    nodes: int
    scheduled: Mapping[str, Graph]
    bounds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` found; every view and the JSON record are made from this alone.

    Attributes:
        unit_bytes: size of one activation in bytes, 0 where the target has no such unit.
        seconds: wall time by step: ``build``, ``capture``, and each policy's name.
        versions: package -> installed version.
    """

    target: str
    device: str
    tracing: str
    unit_bytes: int
    policies: tuple[str, ...]
    graphs: tuple[CapturedGraph, ...]
    seconds: Mapping[str, float]
    versions: Mapping[str, str]
    size: Mapping[str, int | None] = field(default_factory=dict)

    def traffic(self, policy: str) -> Traffic:
        """Bytes and launches of all graphs under one policy."""
        total = Traffic(0, 0, 0, 0)
        for graph in self.graphs:
            total += traffic(graph.scheduled[policy])
        return total

    def bound(self, policy: str) -> float | None:
        """Certified lower bound of all graphs in bytes; None where a policy has none."""
        bounds = [graph.bounds.get(policy) for graph in self.graphs]
        known = [bound for bound in bounds if bound is not None]
        return sum(known) if known and len(known) == len(bounds) else None

    def most_read(self, policy: str, limit: int) -> list[Kernel]:
        """The fused kernels that read the most bytes under one policy."""
        return most_read((g.scheduled[policy] for g in self.graphs), limit)

    def differences(self) -> list[Difference]:
        """Tensors that some policy decides otherwise than the first one, largest first."""
        found = [d for g in self.graphs for d in differences(g.scheduled, self.policies[0])]
        return sorted(found, key=lambda d: (-d.tensor.bytes, d.node))
