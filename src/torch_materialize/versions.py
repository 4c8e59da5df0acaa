"""Versions of what a figure depends on, without importing any of it."""

from __future__ import annotations

import functools
import hashlib
import platform
from importlib import metadata
from pathlib import Path

from ._version import __version__

__all__ = ["implementation", "installed_versions", "processor"]

_PACKAGES = ("torch", "triton", "transformers")


@functools.cache
def implementation() -> str:
    """Version and source digest of the code that decides."""
    digest = hashlib.sha256()
    package = Path(__file__).parent
    for source in sorted([*package.glob("core/*.py"), *package.glob("inductor/*.py")]):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:16]}"


def installed_versions(*more: str) -> dict[str, str]:
    """Package -> version, ``not installed`` where it is not; ``more`` names further packages."""
    versions = {"torch-materialize": __version__, "python": platform.python_version()}
    for package in (*_PACKAGES, *more):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def processor() -> str:
    """The CPU as Linux names it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
