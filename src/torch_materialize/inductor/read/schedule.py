"""What the planner's reader takes from Inductor's schedule: buffers, their kernels, loop sizes."""

from __future__ import annotations

from typing import Any

from torch._inductor.graph import GraphLowering
from torch._inductor.runtime.hints import ReductionHint
from torch._inductor.utils import is_gpu, sympy_product

from .kernels import is_fused
from .storage import elements, points

__all__ = ["Schedule", "longest_held", "numels", "passes", "reduced"]

# The most elements that Inductor keeps in registers while it sums them up, along rows or in some
# other way (`InductorChoices.should_use_persistent_reduction`).  C++ has no such kernels, but rows
# as short lie in the first cache.
_HELD_INNER = 1024
_HELD_OTHER = 64


class Schedule:
    """Where each buffer is made, and which buffer stands for a mutated one.

    Attributes:
        kernels: scheduled nodes, extern kernels among them, in their order.
        position: buffer -> the place in that order of the kernel that makes it.
        fused: buffers that Inductor's own kernels make; ``fused_members`` are those kernels' parts.
        next_version: buffer -> the one that it is after somebody has written into it.
    """

    def __init__(self, lowered: GraphLowering) -> None:
        self.kernels = list(lowered.scheduler.nodes)
        self.outputs = set(lowered.get_output_names())
        self.position: dict[str, int] = {}
        self.fused: set[str] = set()
        self.fused_members: set[str] = set()
        self.next_version: dict[str, str] = {}
        self._last: dict[str, str] = {}  # of the buffers that were looked up
        for position, kernel in enumerate(self.kernels):
            self.position |= dict.fromkeys(kernel.get_buffer_names(), position)
            if is_fused(kernel):
                self.fused |= set(kernel.get_buffer_names())
                self.fused_members |= {m.get_name() for m in kernel.get_nodes()}
            for member in kernel.get_nodes():
                for buffer in member.get_outputs():
                    for old in buffer.get_mutations():
                        self.next_version[old] = buffer.get_name()

    def last_version(self, name: str) -> str:
        """The buffer that ``name`` is when the last kernel has written into it."""
        seen = []
        while name in self._last or name in self.next_version:
            if name in self._last:
                name = self._last[name]
                break
            seen.append(name)
            name = self.next_version[name]
        self._last |= dict.fromkeys(seen, name)
        return name


def numels(kernel: Any) -> frozenset[int]:
    """Sizes that a kernel's loops can compute: without and with its reduction."""
    sizes = set()
    for member in kernel.get_nodes():
        sizes |= {elements(sympy_product(member.get_ranges()[0])), points(member)}
    return frozenset(sizes)


def reduced(kernel: Any) -> int:
    """The most elements that one loop of a kernel sums up into one, 1 where none does."""
    extents = [elements(sympy_product(r)) for m in kernel.get_nodes() for r in m.get_ranges()[1:]]
    return max(extents, default=1)


def passes(kernel: Any) -> int:
    """How many loops over everything a kernel is: what needs a sum comes in another than the sum.

    One where Triton keeps what it sums up in registers, and where C++ does all of them row by row,
    in the first cache.  That it does not where something is computed once for each row between
    two of them (the mean of a layer norm): a loop over vectors of rows does not fit into one over
    rows (`OuterLoopFusedSchedulerNode.check_outer_fusion_loop_level_attr`).
    """
    counts = {member: points(member) for member in kernel.get_nodes()}
    most = max(counts.values())
    if _on_gpu(kernel):
        once = reduced(kernel) <= longest_held(kernel)
    else:
        once = all(m.is_reduction() or count == most for m, count in counts.items())
    if once:
        return 1
    level: dict[str, int] = {}
    found: set[int] = set()
    for member, count in counts.items():
        mine = max((level.get(move.name, 0) for move in member.read_writes.reads), default=0)
        after = mine + member.is_reduction()
        level |= dict.fromkeys(member.get_buffer_names(), after)
        if count == most:
            found.add(mine)
    return len(found)


def longest_held(kernel: Any) -> int:
    """The most elements that a kernel keeps in registers while it sums them up."""
    summing = [member for member in kernel.get_nodes() if member.is_reduction()]
    if not _on_gpu(kernel) or all(map(_is_inner, summing)):
        return _HELD_INNER
    return _HELD_OTHER


def _on_gpu(kernel: Any) -> bool:
    device = kernel.get_device()
    return device is not None and is_gpu(device.type)


def _is_inner(member: Any) -> bool:
    """Whether what is summed up lies side by side (`SIMDKernelFeatures.reduction_hint`)."""
    hint = getattr(member.node.data, "reduction_hint", None)
    moves = (*member.read_writes.reads, *member.read_writes.writes)
    return hint == ReductionHint.INNER or all(move.is_contiguous() for move in moves)
