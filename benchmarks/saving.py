"""How a benchmark leaves its figures."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from torch_materialize.results.base import write_json
from torch_materialize.versions import installed_versions


def save(path: Path, **figures: Any) -> None:
    """Writes ``figures`` as JSON, with the day and the versions that they were made with."""
    day = datetime.date.today().isoformat()
    write_json(path, {"date": day, "versions": installed_versions(), **figures})
