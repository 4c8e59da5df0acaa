"""A measured trace: what torch.profiler's export says about Inductor's kernels.

Only names and durations are taken out of it; the page joins them with the kernels of a record.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RecordError
from ..results.base import read_json

__all__ = ["Measured", "read_trace"]

# With cpp.enable_kernel_profile a C++ kernel's name has its graph's number before it.
_KERNEL = re.compile(r"(?:triton_|cpp_)\w*fused\w*")


@dataclass(frozen=True)
class Measured:
    """Kernel function -> how often it ran, and the median of its microseconds.

    The first launches of a run and whatever else the machine does pull a mean far up.
    """

    name: str
    kernels: dict[str, tuple[int, float]]


def read_trace(path: Path) -> Measured:
    """The fused kernels of a trace that ``torch.profiler`` exported, gzipped or not.

    Raises:
        RecordError: there is no such file, it is no such trace, or it has none of our kernels.
    """
    data = read_json(path)
    events = data.get("traceEvents") if isinstance(data, dict) else data
    if not isinstance(events, list):
        raise RecordError(
            f"{path}: expected a trace with traceEvents; found {type(data).__name__} without. "
            "torch.profiler writes one with prof.export_chrome_trace(FILE)."
        )
    kernels = _kernels(events)
    if not kernels:
        raise RecordError(
            f"{path}: expected kernels that Inductor generates (triton_..., cpp_fused_...); found "
            f"none in {len(events)} events. Profile the compiled model; on a CPU set "
            "torch._inductor.config.cpp.enable_kernel_profile before it compiles."
        )
    return Measured(path.name, kernels)


def _kernels(events: Iterable[Any]) -> dict[str, tuple[int, float]]:
    """By name; where a GPU ran it, without the events of its launch on the CPU."""
    found: dict[bool, dict[str, list[float]]] = {True: {}, False: {}}
    for event in events:
        if not isinstance(event, dict) or event.get("ph") != "X":
            continue
        name = _KERNEL.search(str(event.get("name", "")))
        if name is None:
            continue
        times = found[event.get("cat") == "kernel"].setdefault(name[0], [])
        times.append(float(event.get("dur", 0)))
    both = {**found[False], **found[True]}
    return {name: (len(times), statistics.median(times)) for name, times in both.items()}
