"""Plan files: what was decided for one graph, kept as a file that any compile may go by.

A file is found by its name, which is the key of its graph
(:mod:`torch_materialize.inductor.plan.plan_key`).  It is written whole or not at all, so that any
number of processes may write and read one folder at once; of two that wrote the same graph's the
later file stays.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..core.policy import Policy
from ..errors import RecordError
from .base import Schema, json_of

__all__ = [
    "FOLDER_VARIABLE",
    "PLAN_FILE",
    "SUFFIX",
    "Check",
    "Measured",
    "Moved",
    "PlanFile",
    "PlannedNode",
    "Plans",
    "digest_for",
    "folder_of",
    "in_folder",
    "save",
]

#: Environment variable that names the folder of plan files for policies that name none.
FOLDER_VARIABLE = "TORCH_MATERIALIZE_PLANS"
#: What the name of a plan file ends in, after the key of its graph.
SUFFIX = ".plan.json"


@dataclass(frozen=True)
class Moved:
    """Bytes that fused kernels read and write, and how many of these kernels there are."""

    bytes: int
    kernels: int


@dataclass(frozen=True)
class Check:
    """What one trial lowering has to show before a plan file is used.

    It is of the graph without most of its repeated layers, as a search lowers it.

    Attributes:
        nodes: FX nodes that were left.
        plan, stock: what they come to as planned, and under stock.
    """

    nodes: int
    plan: Moved
    stock: Moved


@dataclass(frozen=True)
class PlannedNode:
    """What was decided about one node.

    Attributes:
        place: its number in the canonical order of the graph, inputs included.
        decided: of ``realized`` (written, while what is not named is inlined), ``rounded`` (for
            all that use it), ``written`` (its one lowering materializes it) and ``narrow`` (a held
            cast that is not folded).
        operator: what it computes.
        value: dtype and shape.
        source: ``file:line`` of the model, "" where that is unknown; for people.
        module: path of the module that computes it; for people.
    """

    place: int
    decided: tuple[str, ...]
    operator: str
    value: str = ""
    source: str = ""
    module: str = ""


@dataclass(frozen=True)
class Measured:
    """What `tune` found on a device.

    Attributes:
        key: digest of the graph, the device, versions and settings that it was measured with.
        choice: the variant that was fastest, or ``stock``.
        seconds: median time of each variant.
        noise: share within which two timings of stock lay.
        about: device, versions, size of the graph: for people to read.
        made: when, in seconds since 1970.
    """

    key: str
    choice: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    noise: float = 0.0
    about: Mapping[str, str] = field(default_factory=dict)
    made: float = 0.0


@dataclass(frozen=True)
class PlanFile:
    """What was decided for one graph on one device.

    Attributes:
        key: digest of the graph, the device and the settings.
        kind: ``inference``, ``forward`` or ``backward``.
        nodes: numbered nodes of the graph.
        device: short name of the device.
        policy: the policy that decided.
        versions: package -> version that it was decided with.
        stock, plan: what the whole graph comes to; None where only its shortened form was lowered.
        check: what a compile checks.
        bound: certified least in bytes; None where nothing was certified.
        planned: False: everything that no node below says is left to stock.
        decisions: the nodes that something was decided about, in canonical order.
        settings: Inductor's settings that are on for this graph, and off by default.
        measured: the timing behind it; None where bytes decided.
    """

    key: str
    kind: str
    nodes: int
    device: str
    policy: str
    versions: Mapping[str, str]
    check: Check
    stock: Moved | None = None
    plan: Moved | None = None
    bound: float | None = None
    planned: bool = False
    decisions: tuple[PlannedNode, ...] = ()
    measured: Measured | None = None
    settings: tuple[str, ...] = ()


PLAN_FILE = Schema(PlanFile, "plan", 1)


@dataclass(frozen=True)
class Plans:
    """The plan files of one folder, as they were when it was read.

    Attributes:
        where: the folder, for messages.
        files: name -> content.
    """

    where: str
    files: Mapping[str, bytes] = field(default_factory=dict)

    @functools.cached_property
    def digest(self) -> str:
        """Of what the files say, for cache keys; "" where there are none."""
        if not self.files:
            return ""
        digest = hashlib.sha256()
        for name in sorted(self.files):
            digest.update(f"{name}\0{len(self.files[name])}\0".encode() + self.files[name])
        return digest.hexdigest()[:32]

    def find(self, key: str) -> PlanFile | None:
        """The plan for a graph; None where there is no file for it.

        Raises:
            RecordError: the file is damaged, or of another version.
        """
        name = f"{key}{SUFFIX}"
        content = self.files.get(name)
        if content is None:
            return None
        where = os.path.join(self.where, name)
        plan = PLAN_FILE.from_json(json_of(content, where), where)
        if plan.key != key:
            raise RecordError(f"{where}: is not the plan of that key. Make it anew.")
        return plan


def folder_of(policy: Policy) -> Path | None:
    """The folder of plan files that a compile under a policy goes by; None where there is none."""
    named = policy.plan_files or os.environ.get(FOLDER_VARIABLE, "")
    return Path(named).expanduser() if named and policy.plans else None


def in_folder(folder: Path) -> Plans:
    """The plan files of a folder; what has not changed is not read again.

    Raises:
        RecordError: the folder or a file in it cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            listed = sorted(
                (one.name, status.st_mtime_ns, status.st_size, status.st_ino)
                for one in found
                if one.name.endswith(SUFFIX) and not one.name.startswith(".")
                for status in [one.stat()]
            )
        return _read(str(folder), tuple(listed))
    except OSError as error:
        raise RecordError(
            f"{folder}: plan files cannot be read ({error.strerror}). Make them: "
            f"torch-materialize plan TARGET -o {folder}"
        ) from error


def digest_for(policy: Policy) -> str:
    """What the plan files of a policy say, as a digest for cache keys; "" where there are none."""
    folder = folder_of(policy)
    try:
        return in_folder(folder).digest if folder is not None else ""
    except RecordError:
        return ""  # and nothing of it is used


@functools.lru_cache(maxsize=8)
def _read(folder: str, listed: tuple[tuple[str, int, int, int], ...]) -> Plans:
    return Plans(folder, {name: Path(folder, name).read_bytes() for name, *_ in listed})


def save(plan: PlanFile, folder: Path) -> Path:
    """Writes a plan file, and the folder where it is not there; where it is.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{plan.key}{SUFFIX}"
    PLAN_FILE.save(plan, path)
    return path
