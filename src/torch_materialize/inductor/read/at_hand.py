"""The device that a graph in a real compile will run on: found here for all."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import torch

from ...core.devices import DEVICES, HERE, Device, cpu_at_hand, find, identify
from ...errors import TargetError
from ...versions import processor

__all__ = ["decides", "device_named", "device_of", "device_text"]


def device_of(inputs: Iterable[Any]) -> Device | None:
    """Where a graph with these inputs will run; None where that is no GPU that is here."""
    placed = _placed(inputs)
    if placed is None:
        return cpu_at_hand(_processor(), torch.get_num_threads())
    if placed.type != "cuda" or not torch.cuda.is_available():
        return None
    return identify(torch.cuda.get_device_properties(placed))


def device_named(name: str) -> Device:
    """A device that somebody named: one of the table, or this machine's GPU.

    That is ``here``, ``cuda``, or the title by which a record names it.

    Raises:
        TargetError: there is no such device, or no GPU here.
    """
    there = torch.cuda.is_available() if name not in DEVICES else False
    gpu = identify(torch.cuda.get_device_properties(torch.cuda.current_device())) if there else None
    if gpu is not None and name in (*HERE, gpu.name):
        return gpu
    if name in HERE:
        raise TargetError(
            f"device {name!r} is this machine's GPU: expected one that torch {torch.__version__} "
            f"can use; found none. Name one to plan for: {', '.join(DEVICES)}."
        )
    return find(name)


def decides() -> str:
    """What of the CPU at hand a plan depends on, for cache keys, which may travel."""
    return cpu_at_hand(_processor(), torch.get_num_threads()).fitted


def device_text(inputs: Iterable[Any]) -> str:
    """The same in words that distinguish what differs in speed: parts of one GPU, threads."""
    inputs = tuple(inputs)
    device, placed = device_of(inputs), _placed(inputs)
    if placed is None:
        return f"{_processor()}, {torch.get_num_threads()} threads"
    if device is None:
        return placed.type
    properties = torch.cuda.get_device_properties(placed)
    memory = properties.total_memory >> 30
    return f"{properties.name}, {properties.multi_processor_count} processors, {memory} GiB"


def _placed(inputs: Iterable[Any]) -> torch.device | None:
    """Where the first input is that is not on the CPU."""
    devices = (x.device for x in inputs if isinstance(x, torch.Tensor))
    return next((device for device in devices if device.type != "cpu"), None)


@functools.cache
def _processor() -> str:
    try:
        return processor()
    except OSError:  # no Linux
        return ""
