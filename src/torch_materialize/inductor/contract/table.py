"""The one table of upstream objects that we lean on, and nothing else (:mod:`.seams` reads it).

Each row says what the object is used for, which digests of it were looked at and in which
torch, and when the row can go.  The rows stand in five files, by who needs them.
"""

from __future__ import annotations

from .offline_seams import OFFLINE_SEAMS
from .partition_seams import PARTITION_SEAMS
from .pins_seams import PINS_SEAMS
from .policy_seams import POLICY_SEAMS
from .seam import Seam
from .trial_seams import TRIAL_SEAMS

__all__ = ["SEAMS"]

SEAMS: tuple[Seam, ...] = (
    *POLICY_SEAMS,
    *PARTITION_SEAMS,
    *TRIAL_SEAMS,
    *PINS_SEAMS,
    *OFFLINE_SEAMS,
)
