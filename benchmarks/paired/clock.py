"""Clocks: how long one step takes, on a CPU and on a GPU; and memory that is kept meanwhile."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .opaque import Spent

# Inputs are rotated until they are this many times the last cache, or this many: those of a few
# kilobytes would be in a cache in a model, too.
_PAST_CACHE = 2.0
_MOST_COPIES = 8
# A sample on a CPU is as many steps as take this many seconds: one of microseconds is all noise.
_SAMPLE, _MOST_STEPS = 5e-3, 200
# One on a GPU takes as many replays as outlast the events around them by far.
_REPLAYED = 3e-3
# Seconds of work after which a GPU that idled runs at its usual clock.
_WARM = 0.3
# Of glibc's malloc.h, parameter and value: the trim threshold, and no memory maps.
_KEEP_FREED = ((-1, 2**31 - 1), (-4, 0))


def on_cpu(step: Callable[[], Any]) -> Callable[[], float]:
    """Seconds of one step, without what the stand-ins for matmuls took.

    The first call finds out how many steps make a sample.
    """
    steps = 0

    def sample(count: int) -> float:
        Spent.seconds = 0.0
        start = time.perf_counter()
        for _ in range(count):
            step()
        return time.perf_counter() - start - Spent.seconds

    def timed() -> float:
        nonlocal steps
        if not steps:
            step()
            steps = max(1, min(_MOST_STEPS, round(_SAMPLE / max(sample(3) / 3, 1e-9))))
        if steps > 1:
            step()  # so short that it matters whose data the caches hold
        return sample(steps) / steps

    return timed


def on_gpu(steps: Sequence[Callable[[], Any]]) -> Callable[[], float]:
    """Seconds for one step between two CUDA events; ``steps`` are the same with other inputs."""
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def timed() -> float:
        first.record()
        for step in steps:
            step()
        last.record()
        last.synchronize()
        return first.elapsed_time(last) * 1e-3 / len(steps)

    return timed


def replayed(steps: Sequence[Callable[[], Any]]) -> Callable[[], float]:
    """Seconds for one step of a CUDA graph that holds all ``steps``: no launch waits for Python.

    Raises:
        RuntimeError: something in the steps cannot be captured.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for step in steps:
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for step in steps:
            step()
    once = on_gpu([graph.replay])
    many: Callable[[], float] | None = None

    def timed() -> float:
        nonlocal many
        if many is None:
            once()
            many = on_gpu([graph.replay] * max(1, min(_MOST_STEPS, round(_REPLAYED / once()))))
        return many() / len(steps)

    return timed


def warm_up() -> None:
    """Keeps a GPU busy until it has left the clocks at which it idles."""
    matrix = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    start = time.perf_counter()
    while time.perf_counter() - start < _WARM:
        torch.mm(matrix, matrix)
        torch.cuda.synchronize()


def copies(nbytes: int, cache: int) -> int:
    """How many sets of inputs to rotate so that a cache does not hold the next one."""
    return max(1, min(_MOST_COPIES, round(_PAST_CACHE * cache / max(nbytes, 1))))


def copy_of(device: str, nbytes: int = 1 << 28) -> tuple[Callable[[], Any], int]:
    """One copy through memory, and the bytes that it moves: what the device can do at best."""
    source = torch.ones(nbytes // 4, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source), 2 * nbytes


def keep_pages() -> bool:
    """Has the C library keep what is freed, as allocators for inference do; False without glibc.

    glibc gives a large buffer back to the system as soon as it is freed, and the next one arrives
    as untouched pages: each step then mostly times the system zeroing pages, and a kernel that
    writes a buffer pays for it where one that reads does not.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all(mallopt(*setting) == 1 for setting in _KEEP_FREED)
