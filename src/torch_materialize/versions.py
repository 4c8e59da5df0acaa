"""Versions of what a figure depends on, without importing any of it."""

from __future__ import annotations

import platform
from importlib import metadata

from ._version import __version__

__all__ = ["installed_versions"]

_PACKAGES = ("torch", "triton", "transformers")


def installed_versions() -> dict[str, str]:
    """Package -> version, ``not installed`` where it is not."""
    versions = {"torch-materialize": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
