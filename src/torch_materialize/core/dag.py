"""The planner's view of one trial lowering: values, the fused kernels that compute them, bytes.

Values stand in program order, kernels in the order in which they run.  All sizes are bytes
unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

__all__ = [
    "Dag",
    "Fused",
    "Kind",
    "Moved",
    "Value",
    "delicate",
    "in_delicate",
    "moved",
    "required",
    "used_where_written",
    "walk",
    "written",
    "written_again",
]


class Kind(Enum):
    """What a planner may do with a value."""

    SOURCE = "source"  # in memory whatever is decided: inputs, results of extern kernels
    POINTWISE = "pointwise"  # materialized or inlined: ours to decide
    PINNED = "pinned"  # computed by one kernel only: reductions, mutated buffers
    VIEW = "view"  # no data of its own; reading it reads its base


@dataclass(frozen=True)
class Value:
    """One value of the graph.

    Attributes:
        index: its place in :attr:`Dag.values`.
        node: the FX node, "" for a buffer inside a lowering (a partial sum, a copy).
        nbytes: what a kernel that reads it moves; for a view only the part it shows.
        numel: elements that a loop must produce to compute it.
        inputs: values that computing it needs.
        base: the value whose memory holds it; itself unless it is a view.
        required: something besides fused kernels reads it, so it must be written.
        ready: for a SOURCE, the schedule position after which it exists; -1 for inputs.
        work: operations that computing it takes, where it is inlined once more.
        early: it became a buffer of its own, no part of another's, as soon as it was lowered and
            not when a reader had to have one.
        label: what it is called from one trial lowering to the next; the FX node, or that node and
            a number for a buffer inside its lowering.
        until: the schedule position up to which something besides fused kernels needs it in
            memory: the last extern kernel that reads it, the end for outputs and for inputs that
            the caller holds; -1 where nothing does.
        memory: the value whose memory it lies in, where it writes over it or is a part of it; -1:
            memory of its own.
    """

    index: int
    node: str
    kind: Kind
    nbytes: int
    numel: int
    inputs: tuple[int, ...] = ()
    base: int = -1
    required: bool = False
    ready: int = -1
    work: int = 0
    early: bool = False
    label: str = ""
    until: int = -1
    memory: int = -1


@dataclass(frozen=True)
class Fused:
    """A fused kernel of the trial lowering.

    Attributes:
        position: its place in the schedule, extern kernels counted.
        writes: values that become buffers in it, kept inside or not.
        numels: sizes that its loops can compute.
        measured: effective bytes that the trial lowering counted for it.
        work: operations that the trial lowering counted for it.
        delicate: its numbers depend on how it is built and not on its values alone: it sums in
            some order, or calls functions that vector code and scalar code round differently.
        reduced: the most elements that one of its loops sums up into one; 1 for pointwise.
        held: the most that it would keep in registers while it sums them up.
        passes: how many loops over everything it is, each of which reads its inputs: one, and one
            more after each sum that the next loop needs.
        narrow: bytes that it reads of some bases in the trial lowering, where computing its values
            seems to need more: what it computes gathers, or shows a part.
    """

    index: int
    name: str
    position: int
    writes: tuple[int, ...]
    numels: frozenset[int]
    measured: int = 0
    work: int = 0
    delicate: bool = False
    reduced: int = 1
    held: int = 1024
    passes: int = 1
    narrow: Mapping[int, int] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Dag:
    """Values and kernels of one trial lowering.

    ``forced`` holds POINTWISE values that are materialized whatever the plan says: Inductor was
    seen to do it on its own, or the model keeps them.  ``never`` holds those that the model pins as
    inlined: no plan stores them, though a buffer may still be required.
    """

    values: tuple[Value, ...]
    kernels: tuple[Fused, ...]
    forced: frozenset[int] = frozenset()
    never: frozenset[int] = frozenset()
    users: Mapping[int, tuple[int, ...]] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        users: dict[int, list[int]] = {value.index: [] for value in self.values}
        for value in self.values:
            for i in value.inputs:
                users[i].append(value.index)
        object.__setattr__(self, "users", {i: tuple(u) for i, u in users.items()})

    def fixed(self, index: int) -> bool:
        """Whether a value is in a buffer whatever the plan says."""
        value = self.values[index]
        if value.kind is Kind.POINTWISE:
            return value.required or index in self.forced
        return value.kind is Kind.PINNED

    def homes(self) -> dict[int, int]:
        """Value -> the kernel that materializes it, as the trial lowering had it."""
        return {i: kernel.index for kernel in self.kernels for i in kernel.writes}

    def read_bytes(self, index: int, kernel: int) -> int:
        """What a kernel moves that reads a value from memory."""
        value = self.values[index]
        return min(value.nbytes, self.kernels[kernel].narrow.get(value.base, value.nbytes))

    def with_homes(self, homes: Mapping[int, int]) -> Dag:
        """The same values, materialized by other kernels: as a plan would have it."""
        writes: dict[int, list[int]] = {}
        for i, kernel in homes.items():
            writes.setdefault(kernel, []).append(i)
        kernels = (replace(k, writes=tuple(writes.get(k.index, ()))) for k in self.kernels)
        return replace(self, kernels=tuple(kernels))

    def chosen(self) -> frozenset[int]:
        """Values that the trial lowering materialized without need."""
        return frozenset(i for i in self.homes() if not self.fixed(i))

    def nodes(self, indices: Iterable[int]) -> frozenset[str]:
        """FX names of values: what survives from one trial lowering to the next."""
        return frozenset(self.values[i].node for i in indices) - {""}

    def with_forced(self, nodes: frozenset[str]) -> Dag:
        """The same trial lowering, knowing more nodes that are materialized in any case."""
        held = self.homes()
        more = frozenset(v.index for v in self.values if v.node in nodes and v.index in held)
        return self if more <= self.forced else replace(self, forced=self.forced | more)

    def with_stocks(self, nodes: frozenset[str], stored: frozenset[str]) -> Dag:
        """The same trial lowering, with the decisions on ``nodes`` left as in ``stored``."""
        if not nodes:
            return self
        inlined = frozenset(v.index for v in self.values if v.node in nodes - stored)
        return replace(self.with_forced(stored), never=self.never | inlined)

    def with_delicate_closed(self) -> Dag:
        """The same trial lowering, with delicate kernels writing no more than they do now."""
        kernels = (replace(k, numels=frozenset()) if k.delicate else k for k in self.kernels)
        return replace(self, kernels=tuple(kernels))

    @property
    def measured(self) -> int:
        """Effective bytes of all fused kernels of the trial lowering."""
        return sum(kernel.measured for kernel in self.kernels)

    def cost(self, balance: float) -> float:
        """The bytes, or those that could be moved while a kernel computes, where that is more.

        ``balance`` is in bytes per operation.  The roofline model (Williams et al., 2009).
        """
        return sum(max(kernel.measured, balance * kernel.work) for kernel in self.kernels)


@dataclass
class Moved:
    """What one kernel reads (per access) and writes, and which values it computes."""

    reads: dict[int, int] = field(default_factory=dict)
    writes: dict[int, int] = field(default_factory=dict)
    computes: set[int] = field(default_factory=set)

    def read_of(self, dag: Dag) -> dict[int, int]:
        """Buffer -> bytes read; several parts of one count at most the buffer."""
        sizes: dict[int, int] = {}
        for i, size in self.reads.items():
            base = dag.values[dag.values[i].base]
            sizes[base.index] = min(sizes.get(base.index, 0) + size, base.nbytes)
        return sizes

    def total(self, dag: Dag) -> int:
        """Bytes read and written."""
        return sum(self.read_of(dag).values()) + sum(self.writes.values())


def moved(dag: Dag, homes: Mapping[int, int]) -> list[Moved]:
    """What every kernel moves when exactly ``homes`` are materialized, and where.

    A kernel that needs the buffer of an earlier kernel reads it and never looks behind it: that
    is how Inductor's loaders work.  What becomes a buffer only later it recomputes.
    """
    roots: list[list[int]] = [[] for _ in dag.kernels]
    for i, kernel in homes.items():
        roots[kernel].append(i)
    result = [walk(dag, homes, k.index, roots[k.index]) for k in dag.kernels]
    readers: dict[int, set[int]] = {}
    for kernel, one in enumerate(result):
        for i in one.reads:
            readers.setdefault(dag.values[i].base, set()).add(kernel)
    for i, kernel in homes.items():
        if dag.values[i].required or readers.get(i, set()) - {kernel}:
            result[kernel].writes[i] = dag.values[i].nbytes
    return result


def walk(dag: Dag, homes: Mapping[int, int], kernel: int, roots: Iterable[int]) -> Moved:
    """What one kernel reads and computes for ``roots``; what it writes, :func:`moved` adds."""
    one = Moved()
    todo = list(roots)
    while todo:
        i = todo.pop()
        if i in one.computes or i in one.reads:
            continue
        value = dag.values[i]
        home = homes.get(value.base)
        in_memory = dag.values[value.base].kind is Kind.SOURCE
        if in_memory or (home is not None and home < kernel):
            one.reads[i] = dag.read_bytes(i, kernel)
        else:
            one.computes.add(i)
            todo.extend(value.inputs)
    return one


def required(dag: Dag) -> frozenset[int]:
    """Values that are written whatever is decided: something besides fused kernels reads them."""
    return frozenset(value.index for value in dag.values if value.required)


def written(dag: Dag) -> frozenset[int]:
    """Values that kernels write to memory: a buffer that no other kernel reads is not."""
    return frozenset(i for one in moved(dag, dag.homes()) for i in one.writes)


def written_again(dag: Dag) -> dict[int, int]:
    """Values that are written more than once, with the bytes of the copies.

    An operator with constraints on its operands copies what is not in memory yet, once for each
    operand (``ir.ExternKernel.require_stride_order``): a mixture of experts that reads one tensor
    as the router's input and as the experts'.  In memory before, it is written once.
    """
    late = {
        (frozenset(value.inputs), value.nbytes): value.index
        for value in dag.values
        if value.kind is Kind.POINTWISE and value.required and not value.early
    }
    # A copy is named after its reader, and a number.
    readers = {v.label.split("#")[0] for v in dag.values if v.kind is Kind.SOURCE}
    found: dict[int, int] = {}
    for value in dag.values:
        index = late.get((frozenset(value.inputs), value.nbytes))
        is_copy = value.kind is Kind.PINNED and value.label.split("#")[0] in readers
        if index is not None and is_copy and value.required:
            found[index] = found.get(index, 0) + value.nbytes
    return found


def used_where_written(dag: Dag) -> frozenset[int]:
    """Values that a kernel writes to memory and goes on to use in a register."""
    found = set()
    for one in moved(dag, dag.homes()):
        found |= {i for i in one.writes if not one.computes.isdisjoint(dag.users[i])}
    return frozenset(found)


def delicate(dag: Dag) -> frozenset[tuple[frozenset[str], ...]]:
    """What delicate kernels compute, read and write, by labels: equal sets give equal numbers."""

    def labels(indices: Iterable[int]) -> frozenset[str]:
        return frozenset(dag.values[i].label for i in indices)

    return frozenset(
        (labels(one.computes), labels(one.reads), labels(one.writes))
        for kernel, one in zip(dag.kernels, moved(dag, dag.homes()), strict=True)
        if kernel.delicate
    )


def in_delicate(dag: Dag) -> frozenset[str]:
    """FX nodes that a delicate kernel computes or reads."""
    found: set[int] = set()
    for kernel, one in zip(dag.kernels, moved(dag, dag.homes()), strict=True):
        if kernel.delicate:
            found |= one.computes | {dag.values[i].base for i in one.reads}
    return dag.nodes(found)
