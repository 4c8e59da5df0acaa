"""torch-materialize: which intermediates TorchInductor writes to memory, decided well.

Importing this package changes nothing and imports no torch; ``enable``, ``policy``,
``options``, ``keep`` and ``inline`` do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._version import __version__
from .api import Handle, active, disable, enable, options, policy
from .core.policy import Policy
from .errors import (
    CaptureError,
    MaterializeError,
    RecordError,
    TargetError,
    UnknownPolicyError,
    UnsupportedTorchError,
)

if TYPE_CHECKING:
    from .pins import inline, keep

__all__ = [
    "CaptureError",
    "Handle",
    "MaterializeError",
    "Policy",
    "RecordError",
    "TargetError",
    "UnknownPolicyError",
    "UnsupportedTorchError",
    "__version__",
    "active",
    "disable",
    "enable",
    "inline",
    "keep",
    "options",
    "policy",
]


def __getattr__(name: str) -> object:
    """``keep`` and ``inline`` on first use: their operators need torch."""
    if name not in ("inline", "keep"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import pins

    found: object = getattr(pins, name)
    globals()[name] = found
    return found
