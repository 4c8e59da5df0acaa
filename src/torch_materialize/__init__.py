"""torch-materialize: which intermediates TorchInductor writes to memory, decided well.

Importing this package changes nothing and imports no torch; ``enable``, ``policy`` and
``options`` do.
"""

from __future__ import annotations

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
    "options",
    "policy",
]
