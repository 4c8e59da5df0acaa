"""What torch-materialize raises.

The tree::

    MaterializeError                 base of all of ours
    ├── UnknownPolicyError           a policy, its setting or a mode is misspelt
    ├── MemoryBudgetError            a forward cannot keep as little as `memory=` wants
    ├── UnsupportedTorchError        an upstream object is missing or has changed
    ├── TargetError                  no such target, model or device, or it does not load
    ├── CaptureError                 a target loads but cannot be traced
    ├── LeftToStockError             looking for a plan would take too long
    └── RecordError                  a record file is corrupt, of another version or settings

Each message says what is wrong, where, what was found against what was expected, and the
next step.  Nothing here is raised from inside a user's compile unless strict mode is on, but for
MemoryBudgetError: what was wanted in so many bytes cannot be had.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "CaptureError",
    "LeftToStockError",
    "MaterializeError",
    "MemoryBudgetError",
    "Mismatch",
    "RecordError",
    "TargetError",
    "UnknownPolicyError",
    "UnsupportedTorchError",
]


class MaterializeError(Exception):
    """Base of every error that torch-materialize raises on purpose."""


class UnknownPolicyError(MaterializeError, ValueError):
    """A policy, a policy's setting or a mode has a name or value that we do not know."""


class MemoryBudgetError(MaterializeError, RuntimeError):
    """Nothing that a forward keeps for its backward, or no plan of a graph, needs as little memory
    as ``memory=`` wants.
    """


@dataclass(frozen=True)
class Mismatch:
    """One upstream object that is not as it was when we checked it.

    A value and not an exception: an explicit call raises it, an automatic one logs it once.
    ``owner`` is the module whose code stands there in upstream's place, "" where none does.
    """

    seam: str
    required: str
    found: str
    owner: str = ""

    def __str__(self) -> str:
        return f"{self.seam}: required {self.required}; found {self.found}"


class UnsupportedTorchError(MaterializeError, RuntimeError):
    """The installed torch does not have the upstream objects that we checked.

    ``mismatches`` holds one value per object: what was required and what was found.
    """

    def __init__(self, mismatches: Sequence[Mismatch], torch_version: str) -> None:
        self.mismatches = tuple(mismatches)
        self.torch_version = torch_version
        lines = "\n".join(f"  {m}" for m in self.mismatches)
        owners = sorted({m.owner for m in self.mismatches if m.owner})
        mends = []
        if owners:
            names = ", ".join(owners)
            mends.append(f"start without {names}, which replaced some of it in this process")
        if any(not m.owner for m in self.mismatches):
            mends.append("use a torch from 2.11 to 2.15")
        super().__init__(
            f"torch {torch_version}, as it is in this process, is not one that torch-materialize "
            f"can govern safely:\n{lines}\n"
            "Nothing was changed. Run `torch-materialize doctor` for what mends it, or "
            f"{', and '.join(mends)}."
        )


def brief(error: BaseException) -> str:
    """An upstream exception in one line: its type and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def in_one_line(error: BaseException) -> str:
    """The whole message of an error of ours, without its line breaks."""
    return " ".join(str(error).split())


def place_in(error: BaseException, path: Path) -> str:
    """ " at file:line (its code)" of the innermost frame of ``path`` that an error passed."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).resolve() == path.resolve()
    ]
    if not frames:
        return ""
    code = f" ({frames[-1].line})" if frames[-1].line else ""
    return f" at {path.name}:{frames[-1].lineno}{code}"


class TargetError(MaterializeError):
    """A target, model or device does not exist, does not import or returns the wrong thing."""


class CaptureError(MaterializeError):
    """A target was built but its graphs could not be captured or lowered."""


class LeftToStockError(MaterializeError):
    """A search ended without a plan on purpose: a compile goes on as stock, and says so."""


class RecordError(MaterializeError):
    """A record file cannot be read, or not be resumed: its rows were made otherwise."""
