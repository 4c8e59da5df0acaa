"""A requirement that upstream does not meet, as a value that the caller raises or logs."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Mismatch"]


@dataclass(frozen=True)
class Mismatch:
    """One upstream object that is not as it was when we checked it.

    A value and not an exception: an explicit call raises it, an automatic one logs it once.
    """

    seam: str
    required: str
    found: str

    def __str__(self) -> str:
        return f"{self.seam}: required {self.required}; found {self.found}"
