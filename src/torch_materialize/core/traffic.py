"""Sums over a :class:`Graph`, and what two graphs of the same model do differently."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .graph import Graph, Kernel, Tensor

__all__ = ["Difference", "Traffic", "differences", "most_arguments", "most_read", "traffic"]


@dataclass(frozen=True)
class Traffic:
    """Launches and bytes of the fused kernels; everything else is only counted."""

    kernels: int
    read_bytes: int
    write_bytes: int
    other_kernels: int

    @property
    def bytes(self) -> int:
        """Bytes read and written by the fused kernels."""
        return self.read_bytes + self.write_bytes

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.kernels + other.kernels,
            self.read_bytes + other.read_bytes,
            self.write_bytes + other.write_bytes,
            self.other_kernels + other.other_kernels,
        )

    def times(self, calls: int) -> Traffic:
        """The same, ``calls`` times."""
        return Traffic(
            self.kernels * calls,
            self.read_bytes * calls,
            self.write_bytes * calls,
            self.other_kernels * calls,
        )


def traffic(graph: Graph) -> Traffic:
    """Sums one graph."""
    fused = list(graph.fused())
    return Traffic(
        kernels=len(fused),
        read_bytes=sum(k.read_bytes for k in fused),
        write_bytes=sum(k.write_bytes for k in fused),
        other_kernels=len(graph.kernels) - len(fused),
    )


def most_read(graphs: Iterable[Graph], limit: int) -> list[Kernel]:
    """The fused kernels that read the most bytes, most first."""
    kernels = [k for g in graphs for k in g.fused()]
    return sorted(kernels, key=lambda k: (-k.read_bytes, k.name))[:limit]


def most_arguments(graph: Graph) -> int:
    """The most buffers that one fused kernel reads and writes."""
    return max((len(k.reads) + len(k.writes) for k in graph.fused()), default=0)


@dataclass(frozen=True)
class Difference:
    """A value that one side writes to memory and the other does not."""

    node: str
    tensor: Tensor
    materialized_by: str
    inlined_by: str


def differences(graphs: Mapping[str, Graph], base: str) -> list[Difference]:
    """Every value that some policy decides otherwise than ``base``, largest first.

    ``graphs`` maps a policy's name to the scheduled graph of one and the same FX graph.
    """
    ours = graphs[base].materialized()
    found: list[Difference] = []
    for policy, graph in graphs.items():
        if policy == base:
            continue
        theirs = graph.materialized()
        found += [Difference(n, t, policy, base) for n, t in theirs.items() if n not in ours]
        found += [Difference(n, t, base, policy) for n, t in ours.items() if n not in theirs]
    return sorted(found, key=lambda d: (-d.tensor.bytes, d.node))
