"""Folders of captured graphs: what of them can be measured, seen without loading torch.

Two kinds are known.  A file has graphs as torch prints them (``print_readable``, the debug
directory's ``fx_graph_readable.py`` and ``fx_graph_runnable.py``, a log of
``TORCH_LOGS=post_grad_graphs``).  A folder with a ``model.py`` beside ``input_meta.py`` or
``weight_meta.py``, as GraphNet publishes them, has a module at the level of torch's functions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import TargetError
from .rows import Job
from .spec import Mode

__all__ = ["FAMILY", "METAS", "graph_name", "jobs_in"]

#: The family of captured graphs.
FAMILY = "captured"
#: What describes the inputs of a ``model.py``.
METAS = ("input_meta.py", "weight_meta.py")

_MODEL = "model.py"
_LOGS = (".log", ".txt")
_CLASS = re.compile(r"class (<lambda>|\w+)\((torch\.)?(nn\.)?Module\)")
_TRAINING = re.compile(r"\b(primals|tangents)_\d|\"kind\": \"(forward|backward)\"")


def jobs_in(path: Path) -> list[Job]:
    """What can be measured of a folder, or of one file: a job for each file or model.

    Raises:
        TargetError: there is no such path, or nothing of it looks like a graph.
    """
    if not path.exists():
        raise TargetError(f"there is no file or folder {path}")
    top = path if path.is_dir() else path.parent
    jobs = [_job(one, top) for one in _found(path)]
    if not jobs:
        raise TargetError(
            f"{path}: expected captured graphs (a file with a class GraphModule, as torch prints "
            f"it, or a folder with {_MODEL} and {' or '.join(METAS)}); found none. Make some: "
            "torch-materialize sweep NAME --dump-graphs FOLDER"
        )
    return jobs


def _found(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for folder, below, files in os.walk(path):
        below.sort()
        here = Path(folder)
        if _MODEL in files and any(meta in files for meta in METAS):
            below.clear()
            yield here
            continue
        for name in sorted(files):
            file = here / name
            if (name.endswith(".py") and name != "__init__.py") or (
                name.endswith(_LOGS) and _CLASS.search(_text(file))
            ):
                yield file


def _job(path: Path, top: Path) -> Job:
    name = path.relative_to(top).as_posix() if path != top else path.resolve().name
    is_training = path.is_file() and _TRAINING.search(_text(path))
    mode: Mode = "training" if is_training else "inference"
    return Job(name, FAMILY, mode, "", str(path.resolve()))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""  # reading it says why


def graph_name(name: str, kind: str, index: int) -> str:
    """The file for one graph of a model."""
    plain = re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.")
    return f"{plain}-{kind}-{index}.py"
