"""Gathers what ``doctor`` prints: versions, devices, upstream objects, the active policy."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ... import activation
from ...versions import installed_versions
from ..contract.seams import SEAMS, Seam
from . import install

__all__ = ["Diagnosis", "Finding", "diagnose"]


@dataclass(frozen=True)
class Finding:
    """One upstream object as installed; ``problem`` is "" where all is well."""

    seam: Seam
    known_from: str
    problem: str
    replaced_by: str


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
    )


def _finding(seam: Seam) -> Finding:
    mismatch = seam.check()
    if mismatch is not None:
        return Finding(seam, "", mismatch.found, _replaced_by(seam))
    try:
        digest = seam.digest()
    except (ImportError, AttributeError):
        return Finding(seam, "absent here, and not needed", "", "")
    return Finding(seam, seam.digests.get(digest, "exists"), "", _replaced_by(seam))


def _replaced_by(seam: Seam) -> str:
    try:
        return seam.replaced_by() or ""
    except (ImportError, AttributeError):
        return ""
