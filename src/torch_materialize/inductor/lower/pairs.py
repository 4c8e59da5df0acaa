"""How many pairs of kernels one scheduling compares, counted before it begins."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch._inductor import config
from torch._inductor.graph import GraphLowering
from torch._inductor.ir import ComputedBuffer

__all__ = ["pairs_to_compare"]


def pairs_to_compare(lowering: GraphLowering) -> int:
    """Pairs that Inductor asks whether they may be fused, in the first of up to ten rounds.

    It compares all kernels that read or write one buffer, each with the next 64 of them
    (``Scheduler.get_possible_fusions``); a pair that shares two buffers is counted twice.
    """
    users = Counter(name for one in lowering.operations for name in _buffers(one))
    next_ones = config.max_fusion_buffer_group_pairwise_attempts
    return sum(_pairs(count, next_ones) for count in users.values())


def _buffers(operation: Any) -> set[str]:
    # Of a loop Inductor counted the loads while it lowered, and remembers them; its dependencies,
    # which say the same, would be worked out twice.
    if isinstance(operation, ComputedBuffer):
        read = set(operation.get_read_names())
    else:
        read = {one.name for one in operation.get_read_writes().reads}
    return read | {buffer.get_name() for buffer in operation.get_outputs()}


def _pairs(count: int, next_ones: int) -> int:
    """Pairs of ``count`` in a row that are at most ``next_ones`` apart."""
    near = min(count - 1, next_ones)
    return near * (near + 1) // 2 + (count - 1 - near) * next_ones
