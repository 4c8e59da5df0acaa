"""torch-materialize: which intermediates TorchInductor writes to memory, decided well.

Importing this package changes nothing and imports no torch; ``enable``, ``policy``,
``options``, ``keep``, ``inline`` and ``explain`` do.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ._version import __version__
from .api import Handle, active, disable, enable, options, policy
from .core.policy import Numerics, Policy, PolicyName
from .errors import (
    CaptureError,
    MaterializeError,
    RecordError,
    TargetError,
    UnknownPolicyError,
    UnsupportedTorchError,
)

if TYPE_CHECKING:
    from .jobs.explain import explain
    from .pins import inline, keep
    from .report.report import Report

__all__ = [
    "CaptureError",
    "Handle",
    "MaterializeError",
    "Numerics",
    "Policy",
    "PolicyName",
    "RecordError",
    "Report",
    "TargetError",
    "UnknownPolicyError",
    "UnsupportedTorchError",
    "__version__",
    "active",
    "disable",
    "enable",
    "explain",
    "inline",
    "keep",
    "options",
    "policy",
]


# What needs torch, or is seldom needed, on first use: name -> its module.
_LATER = {
    "Report": "report.report",
    "explain": "jobs.explain",
    "inline": "pins",
    "keep": "pins",
}


def __getattr__(name: str) -> object:
    """Imports what is not imported with the package."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """What there is, what is not imported yet, too."""
    return sorted({*globals(), *__all__})
