"""Tensors and kernels of one scheduled graph, as far as memory traffic needs them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

__all__ = ["Graph", "Kernel", "Tensor"]


@dataclass(frozen=True)
class Tensor:
    """A buffer that exists in memory: a graph input, an output or an intermediate.

    Attributes:
        name: the buffer's name in the generated code (``buf12``, ``arg0_1``).
        node: the FX node whose value it holds, or "" for a graph input or unknown origin.
        bytes: its size in bytes, under Inductor's size hints.
        dtype: ``bfloat16``, ``float32``, ...
        shape: extents as text; symbolic extents keep their symbols.
        source: ``file:line`` of the model code that made it, or "".
    """

    name: str
    node: str
    bytes: int
    dtype: str
    shape: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Kernel:
    """One launch.

    Attributes:
        name: the scheduler's name for it.
        kind: ``pointwise`` or ``reduction`` for fused kernels; ``template`` and ``extern``
            for work that is not Inductor's to fuse (matmul, attention).
        reads: buffer name -> effective bytes read (each distinct access once, gathers by
            the elements that they can touch, never more than the buffer's size).
        writes: buffer name -> bytes written, for buffers that leave the kernel.
        computes: names of the FX nodes that it evaluates, recomputed ones included.
    """

    name: str
    kind: str
    reads: Mapping[str, int]
    writes: Mapping[str, int]
    computes: tuple[str, ...] = ()

    @property
    def fused(self) -> bool:
        """Whether what this kernel reads and writes follows from Inductor's choice."""
        return self.kind in ("pointwise", "reduction")

    @property
    def read_bytes(self) -> int:
        """Bytes that one launch reads."""
        return sum(self.reads.values())

    @property
    def write_bytes(self) -> int:
        """Bytes that one launch writes."""
        return sum(self.writes.values())

    @property
    def bytes(self) -> int:
        """Bytes that one launch moves."""
        return self.read_bytes + self.write_bytes


@dataclass(frozen=True)
class Graph:
    """The kernels of one scheduled graph in launch order, and the tensors between them."""

    kernels: tuple[Kernel, ...]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def fused(self) -> Iterator[Kernel]:
        """The kernels whose traffic depends on what is materialized."""
        return (k for k in self.kernels if k.fused)

    def materialized(self) -> dict[str, Tensor]:
        """FX node name -> the tensor that a fused kernel writes for it."""
        written = (self.tensors[name] for k in self.fused() for name in k.writes)
        return {t.node: t for t in written if t.node}
