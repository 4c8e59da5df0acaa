"""Where results come from: machine, versions, commit and load; and how they are written."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from torch_materialize.core.devices import DEVICES, Device
from torch_materialize.results.base import write_json
from torch_materialize.versions import installed_versions, processor

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

    ``TORCH_MATERIALIZE_COMMIT`` names it for a copy without its git folder.
    """
    if named := os.environ.get("TORCH_MATERIALIZE_COMMIT"):
        return named
    command = ["git", "-C", str(Path(__file__).parent), "describe"]
    command += ["--always", "--abbrev=12", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def of_table(title: str) -> Device | None:
    """The GPU of our table that calls itself so; a result file does not say more of it."""
    return next((one for one in DEVICES.values() if title in (one.title, *one.titles)), None)


def save(path: Path, **content: Any) -> None:
    """Writes ``content`` as JSON, with the day and the versions that it was made with."""
    day = datetime.date.today().isoformat()
    write_json(path, {"date": day, "versions": installed_versions(), **content})
