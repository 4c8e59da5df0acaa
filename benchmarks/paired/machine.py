"""Where figures come from: machine, versions, commit and load."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from torch_materialize.core.devices import CPU, DEVICES, Device, identify
from torch_materialize.versions import processor

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def describe(device: str) -> dict[str, Any]:
    """What a reader must know to believe a time."""
    here: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "cache_bytes": last_cache(device),
        "commit": commit(),
        "load": os.getloadavg(),
    }
    if device == "cuda":
        here["cuda"] = torch.version.cuda
    return here


def last_cache(device: str) -> int:
    """Bytes of the last cache, 0 where nobody says."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).L2_cache_size)
    sizes = [path.read_text(encoding="utf-8").strip() for path in _CACHES.glob("index*/size")]
    return max((int(size.rstrip("K")) << 10 for size in sizes), default=0)


def commit() -> str:
    """The commit of this checkout, with a plus where files differ from it.

    ``TORCH_MATERIALIZE_COMMIT`` tells it for a copy that knows less.
    """
    told = os.environ.get("TORCH_MATERIALIZE_COMMIT")
    if told:
        return told
    folder = Path(__file__).parent
    try:
        ask = ["git", "-C", str(folder), "describe", "--always", "--abbrev=12", "--dirty=+"]
        return subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def planned(device: str) -> Device:
    """The entry of our table for the device at hand.

    Raises:
        LookupError: this GPU is not in it.
    """
    if device == "cpu":
        return CPU
    known = identify(torch.cuda.get_device_properties())
    if known.name in DEVICES:
        return known
    raise LookupError(
        f"{known.title} is not among {', '.join(DEVICES)}, so no bytes can be predicted"
    )
