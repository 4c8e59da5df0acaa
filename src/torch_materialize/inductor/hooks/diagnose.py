"""Gathers what ``doctor`` prints: versions, devices, upstream objects, the active policy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch._inductor import config
from torch._inductor.runtime.cache_dir_utils import cache_dir

from ... import activation
from ...versions import installed_versions
from ..contract.seams import SEAMS, Seam
from . import install

__all__ = ["Diagnosis", "Finding", "diagnose"]


@dataclass(frozen=True)
class Finding:
    """One upstream object as installed; ``problem`` is "" where all is well.

    ``replaced_by`` is somebody else's function that stands in its place, with its file, and
    ``owner`` the module that it belongs to; "" where upstream's own stands there.
    """

    seam: Seam
    known_from: str
    problem: str
    replaced_by: str
    owner: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """The state of this process.

    ``active`` lists the policies that are on for the whole process and who put them on,
    oldest first: the last one decides.
    """

    versions: dict[str, str]
    device: str
    findings: tuple[Finding, ...]
    active: tuple[tuple[str, str], ...]
    hooks_installed: bool
    inductor_cache: str = ""

    def works(self, feature: str) -> bool:
        """Whether every object that ``policy``, ``compare`` or ``pins`` needs is as we know it."""
        return not any(f.problem for f in self.findings if feature in f.seam.features)


def diagnose() -> Diagnosis:
    """Looks at everything once; changes nothing."""
    return Diagnosis(
        versions=installed_versions(),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU only",
        findings=tuple(_finding(seam) for seam in SEAMS),
        active=tuple((str(entry.policy), entry.origin) for entry in activation.entries()),
        hooks_installed=install.installed(),
        inductor_cache=_cache(),
    )


def _cache() -> str:
    """Inductor's cache folder, and whether it keeps compiled graphs there."""
    kept = "on" if config.fx_graph_cache and not config.force_disable_caches else "off"
    return f"{cache_dir()}, graphs: {kept}"


def _finding(seam: Seam) -> Finding:
    replaced, owner = _replaced_by(seam)
    mismatch = seam.check()
    if mismatch is not None:
        return Finding(seam, "", mismatch.found, replaced, owner)
    try:
        digest = seam.digest()
    except (ImportError, AttributeError):
        return Finding(seam, "absent here, and not needed", "", "")
    return Finding(seam, seam.digests.get(digest, "exists"), "", replaced, owner)


def _replaced_by(seam: Seam) -> tuple[str, str]:
    try:
        return seam.replaced_by() or "", seam.replaced_by_module()
    except (ImportError, AttributeError):
        return "", ""
