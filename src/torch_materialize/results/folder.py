"""One record, or a folder of them, as one explanation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..errors import RecordError
from .explanation import Explanation
from .record import EXPLANATION, SUFFIX

__all__ = ["load_any"]


def load_any(path: Path, skipped: list[str] | None = None) -> Explanation:
    """Reads a record, or joins those of a folder as ``TORCH_MATERIALIZE_RECORD`` leaves them.

    Where ``skipped`` is given, a record of a folder that cannot be read is left out while another
    can be, and what is wrong with it is added there.

    Raises:
        RecordError: there is none, one cannot be read, or they are of different devices,
            policies or versions.
    """
    if not path.is_dir():
        return EXPLANATION.load(path)
    files = sorted(path.glob(f"*{SUFFIX}"))
    if not files:
        raise RecordError(
            f"{path}: expected records (*{SUFFIX}); found none. A program "
            "leaves them where TORCH_MATERIALIZE_RECORD points to, one for each graph that it "
            "compiles under plan; what comes from Inductor's cache is not compiled."
        )
    found, problems = [], []
    for file in files:
        try:
            found.append(EXPLANATION.load(file))
        except RecordError as error:
            if skipped is None:
                raise
            problems.append(str(error))
    if not found:
        raise RecordError("\n".join(problems))
    if skipped is not None:
        skipped.extend(problems)
    return _joined(path, found)


def _joined(path: Path, found: list[Explanation]) -> Explanation:
    first = found[0]
    for other in found[1:]:
        for what in ("device", "policies", "priced", "prices", "versions"):
            one, another = getattr(first, what), getattr(other, what)
            if one != another:
                raise RecordError(
                    f"{path}: its records differ in {what}: {one} and {another}. Keep records of "
                    "different runs in folders of their own."
                )
    seconds: dict[str, float] = {}
    for one in found:
        for step, value in one.seconds.items():
            seconds[step] = round(seconds.get(step, 0.0) + value, 3)
    graphs = tuple(graph for one in found for graph in one.graphs)
    return replace(
        first,
        target=path.resolve().name,
        graphs=graphs,
        seconds=seconds,
        unit_bytes=0,
        size={},
        lines={place: text for one in found for place, text in one.lines.items()},
        command=(),
    )
