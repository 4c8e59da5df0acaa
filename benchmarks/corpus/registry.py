"""The registry: public models by name, family and kind of graph, each built lazily.

>>> entry = select(families=["decoder"], kinds=["inference"])[0]
>>> module, args, kwargs = entry.build()
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from .models_audio import AUDIO
from .models_diffusion import DIFFUSION
from .models_text import TEXT
from .models_vision import VISION
from .specs import Built, Kind, Mode, Row

ROWS: tuple[Row, ...] = (*TEXT, *VISION, *DIFFUSION, *AUDIO)

KINDS_OF_MODE: dict[Mode, tuple[Kind, ...]] = {
    "inference": ("inference",),
    "training": ("forward", "backward"),
}


@dataclass(frozen=True)
class Entry:
    """One kind of graph of one model."""

    name: str
    family: str
    kind: Kind
    row: Row

    @property
    def mode(self) -> Mode:
        return "inference" if self.kind == "inference" else "training"

    def build(self) -> Built:
        """The module on the meta device, its positional and its keyword arguments."""
        return self.row.build(self.mode)

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments alone; under a fake mode they are fake."""
        return self.row.arguments()


def _entries(rows: Collection[Row]) -> tuple[Entry, ...]:
    entries = tuple(
        Entry(row.name, row.family, kind, row)
        for row in rows
        for mode in row.modes
        for kind in KINDS_OF_MODE[mode]
    )
    keys = [(e.name, e.kind) for e in entries]
    duplicates = {key for key in keys if keys.count(key) > 1}
    if duplicates:
        raise ValueError(f"registered twice: {sorted(duplicates)}")
    return entries


ENTRIES: tuple[Entry, ...] = _entries(ROWS)


def select(
    names: Collection[str] = (), families: Collection[str] = (), kinds: Collection[str] = ()
) -> list[Entry]:
    """The entries that match every non-empty filter."""
    return [
        entry
        for entry in ENTRIES
        if (not names or entry.name in names)
        and (not families or entry.family in families)
        and (not kinds or entry.kind in kinds)
    ]
