"""Clocks: how long one step takes, on a CPU and on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .opaque import Spent

# Inputs are rotated until they are this many times the last cache, or this many.
_PAST_CACHE = 2.0
_MOST_COPIES = 32
# A sample on a CPU is as many steps as take this many seconds: one of microseconds is all noise.
_SAMPLE, _MOST_STEPS = 5e-3, 200


def on_cpu(step: Callable[[], Any]) -> Callable[[], float]:
    """Seconds of one step by :data:`Spent.clock`, without what the stand-ins for matmuls took.

    The first call finds out how many steps make a sample.
    """
    steps = 0

    def sample(count: int) -> float:
        Spent.seconds = 0.0
        start = Spent.clock()
        for _ in range(count):
            step()
        return Spent.clock() - start - Spent.seconds

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
    timed = on_gpu([graph.replay])
    return lambda: timed() / len(steps)


def copies(nbytes: int, cache: int) -> int:
    """How many sets of inputs to rotate so that a cache does not hold the next one."""
    return max(1, min(_MOST_COPIES, round(_PAST_CACHE * cache / max(nbytes, 1))))


def copy_of(device: str, nbytes: int = 1 << 28) -> tuple[Callable[[], Any], int]:
    """One copy through memory, and the bytes that it moves: what the device can do at best."""
    source = torch.ones(nbytes // 4, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source), 2 * nbytes
