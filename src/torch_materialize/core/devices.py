"""Devices that a graph can be planned for without being there.

Properties are what the drivers report, from the vendors' data sheets and programming guides
(CUDA C++ Programming Guide, "Compute Capabilities"; AMD Instinct MI300X data sheet).  They
steer Inductor's lowering and fusion only through the fields below; no time is derived here.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..errors import TargetError

__all__ = ["CPU", "DEVICES", "Device", "find", "named", "recognized"]

_GIB = 1 << 30
_MIB = 1 << 20


@dataclass(frozen=True)
class Device:
    """One planned device.  Sizes in bytes, bandwidth in bytes per second (0: not stated)."""

    name: str
    title: str
    runtime: str
    capability: tuple[int, int] = (0, 0)
    processors: int = 0
    warp_size: int = 32
    registers_per_processor: int = 65536
    threads_per_processor: int = 2048
    threads_per_block: int = 1024
    memory_bytes: int = 0
    l2_bytes: int = 0
    shared_bytes_per_block: int = 0
    bandwidth: float = 0.0
    arch: str = ""

    @property
    def is_gpu(self) -> bool:
        """Whether graphs move to a (planned) GPU; False for the CPU at hand."""
        return self.runtime in ("cuda", "hip")


CPU = Device("cpu", "CPU", "cpu")

_TABLE = (
    CPU,
    Device(
        "a100",
        "NVIDIA A100-SXM4-80GB",
        "cuda",
        (8, 0),
        108,
        memory_bytes=80 * _GIB,
        l2_bytes=40 * _MIB,
        shared_bytes_per_block=163 << 10,
        bandwidth=2.039e12,
    ),
    Device(
        "rtx4090",
        "NVIDIA GeForce RTX 4090",
        "cuda",
        (8, 9),
        128,
        threads_per_processor=1536,
        memory_bytes=24 * _GIB,
        l2_bytes=72 * _MIB,
        shared_bytes_per_block=99 << 10,
        bandwidth=1.008e12,
    ),
    Device(
        "h100",
        "NVIDIA H100 80GB HBM3",
        "cuda",
        (9, 0),
        132,
        memory_bytes=80 * _GIB,
        l2_bytes=50 * _MIB,
        shared_bytes_per_block=227 << 10,
        bandwidth=3.35e12,
    ),
    Device(
        "h200",
        "NVIDIA H200",
        "cuda",
        (9, 0),
        132,
        memory_bytes=141 * _GIB,
        l2_bytes=50 * _MIB,
        shared_bytes_per_block=227 << 10,
        bandwidth=4.8e12,
    ),
    Device(
        "b200",
        "NVIDIA B200",
        "cuda",
        (10, 0),
        148,
        memory_bytes=180 * _GIB,
        l2_bytes=126 * _MIB,
        shared_bytes_per_block=227 << 10,
        bandwidth=8.0e12,
    ),
    Device(
        "mi300x",
        "AMD Instinct MI300X",
        "hip",
        (9, 4),
        304,
        warp_size=64,
        memory_bytes=192 * _GIB,
        l2_bytes=4 * _MIB,
        shared_bytes_per_block=64 << 10,
        bandwidth=5.3e12,
        arch="gfx942",
    ),
)

DEVICES: Mapping[str, Device] = MappingProxyType({d.name: d for d in _TABLE})


def find(name: str) -> Device:
    """Looks a device up by its short name.

    Raises:
        TargetError: there is no such device in the table.
    """
    if name in DEVICES:
        return DEVICES[name]
    close = difflib.get_close_matches(name, DEVICES, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise TargetError(f"unknown device {name!r}: expected one of {', '.join(DEVICES)}.{hint}")


def named(name: str) -> Device:
    """A device that a record names: one of the table, or one that we know by name alone."""
    return DEVICES.get(name) or Device(name, name, "cuda")


def recognized(title: str) -> Device | None:
    """The GPU of the table that a driver calls ``title``; None for one that is not in it."""
    known = (one for one in _TABLE if one.is_gpu and one.name in title.lower().replace(" ", ""))
    return next(known, None)
