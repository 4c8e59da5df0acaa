"""Devices that a graph can be planned for without being there.

Properties are what the drivers report, from the vendors' data sheets and programming guides
(CUDA C++ Programming Guide, "Compute Capabilities"; AMD Instinct MI300X data sheet).  They
steer Inductor's lowering and fusion only through the fields below; no time is derived here.

A device is in the table or it is not: :func:`identify` compares the driver's whole name, the
number of processors and the memory, and a GPU that differs in one of them is known by its own
properties alone.  A named device (``compare --device cpu``) is the table's; the CPU at hand is it
only where it is like those that its rates were measured on (:func:`cpu_at_hand`).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ..errors import TargetError

__all__ = ["CPU", "DEVICES", "HERE", "Device", "cpu_at_hand", "find", "identify", "named"]

_GIB = 1 << 30
_MIB = 1 << 20
# Drivers keep some of the memory for themselves.
_MEMORY_SHARE = 0.1
# The CPU's rates were fitted on the first of these and checked on the other (shares of stock's
# time off by 2.6% and 4.2%, docs/results/predicted.md), each a virtual machine of two threads.
_MEASURED_CPUS = ("Intel(R) Xeon(R)", "AMD EPYC")
_MEASURED_THREADS = 2


@dataclass(frozen=True)
class Device:
    """One planned device.  Sizes in bytes, bandwidth in bytes per second (0: not stated).

    ``title`` is what the driver calls it, ``titles`` what other drivers do; ``fitted`` is the key
    of its rates in :data:`.fits.FITS`, "" where there are none that it may use.
    """

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
    titles: tuple[str, ...] = ()
    fitted: str = ""

    @property
    def is_gpu(self) -> bool:
        """Whether graphs move to a (planned) GPU; False for the CPU at hand."""
        return self.runtime in ("cuda", "hip")


CPU = Device("cpu", "CPU", "cpu", fitted="cpu")

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
        titles=("A100-SXM4-80GB",),  # drivers before 470
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
        fitted="h200",
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
        titles=("AMD Instinct MI300X OAM", "AMD Instinct MI300X VF"),
    ),
)

DEVICES: Mapping[str, Device] = MappingProxyType({d.name: d for d in _TABLE})


#: What means the GPU of this machine, where a device is named.
HERE = ("here", "cuda")


def find(name: str) -> Device:
    """Looks a device up by its short name.

    Raises:
        TargetError: there is no such device in the table.
    """
    if name in DEVICES:
        return DEVICES[name]
    known = (*DEVICES, *HERE)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise TargetError(
        f"unknown device {name!r}: expected one of {', '.join(DEVICES)}, or {HERE[0]} for this "
        f"machine's GPU.{hint}"
    )


def named(name: str) -> Device:
    """A device that a record names: one of the table, or one that we know by name alone."""
    return DEVICES.get(name) or Device(name, name, "cuda")


def identify(properties: Any) -> Device:
    """The GPU that ``torch.cuda.get_device_properties`` describes.

    The table's where name, processors and memory agree; a part of one (MIG), a variant (PCIe,
    NVL, Laptop) and a relative (GH200, GB200) are other devices, with the bandwidth that their own
    properties say and without fitted rates.
    """
    title = str(properties.name)
    processors = int(getattr(properties, "multi_processor_count", 0))
    memory = int(getattr(properties, "total_memory", 0))
    for one in _TABLE:
        alike = one.is_gpu and title in (one.title, *one.titles) and processors == one.processors
        if alike and abs(memory - one.memory_bytes) <= _MEMORY_SHARE * one.memory_bytes:
            return one
    arch = str(getattr(properties, "gcnArchName", ""))
    arch = arch if arch.startswith("gfx") else ""  # CUDA builds fill it with something else
    return Device(
        title,
        title,
        "hip" if arch else "cuda",
        (int(getattr(properties, "major", 0)), int(getattr(properties, "minor", 0))),
        processors,
        **_limits(properties),
        memory_bytes=memory,
        l2_bytes=int(getattr(properties, "L2_cache_size", 0)),
        bandwidth=0.0 if arch else _bandwidth(properties),
        arch=arch,
    )


# Field -> what the driver calls it, of what a kernel's size may depend on.
_LIMITS = {
    "warp_size": "warp_size",
    "registers_per_processor": "regs_per_multiprocessor",
    "threads_per_processor": "max_threads_per_multi_processor",
    "threads_per_block": "max_threads_per_block",
    "shared_bytes_per_block": "shared_memory_per_block_optin",
}


def _limits(properties: Any) -> dict[str, Any]:
    """What a driver says of a processor; what it does not say has our default."""
    found = {field: getattr(properties, name, None) for field, name in _LIMITS.items()}
    return {field: int(value) for field, value in found.items() if value}


def _bandwidth(properties: Any) -> float:
    """Bytes per second of an NVIDIA GPU; 0 where its driver does not say.

    The memory's clock is in kHz, its bus in bits, and both edges of the clock count (CUDA's
    `deviceQuery` computes it so).  What ROCm says of HBM3 is half of it, so it is not used.
    """
    clock = getattr(properties, "memory_clock_rate", None) or 0
    bus = getattr(properties, "memory_bus_width", None) or 0
    return 2.0 * 1e3 * float(clock) * float(bus) / 8


def cpu_at_hand(title: str, threads: int) -> Device:
    """The CPU that graphs will run on, by its model's name and the threads that kernels use.

    Fitted rates belong to Intel Xeon and AMD EPYC processors of which two threads are used: those
    were measured.  With more threads memory is shared by more of them, and another maker's cores
    have other vectors, so that bytes alone decide there, with a stated balance.
    """
    if threads == _MEASURED_THREADS and title.startswith(_MEASURED_CPUS):
        return CPU
    return Device("cpu", title or "CPU", "cpu")
