"""A model of a GraphNet folder: ``model.py`` with what describes its inputs beside it.

``model.py`` has a class ``GraphModule`` whose ``forward`` takes weights and inputs by name, and
``input_meta.py`` and ``weight_meta.py`` a class for each of them, with its name, shape and dtype.
Those two are read and not run.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..errors import CaptureError, brief
from .targets import Built, import_file

__all__ = ["load"]

_METAS = ("input_meta.py", "weight_meta.py")
_CLASS = "GraphModule"


def load(folder: Path) -> Built:
    """The module of a folder, with fake inputs on the CPU.  Call inside a fake mode.

    Raises:
        CaptureError: something is missing, or of a form that is not known; the message says what.
        TargetError: ``model.py`` does not import.
    """
    module = import_file(folder / "model.py", str(folder))
    kind = getattr(module, _CLASS, None)
    if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module)):
        raise CaptureError(f"model.py: expected a torch.nn.Module {_CLASS}; found none")
    known = {str(one.get("name")): one for meta in _METAS for one in _described(folder / meta)}
    try:
        model = kind()
    except Exception as error:
        raise CaptureError(f"model.py: {_CLASS}() raised {brief(error)}") from error
    args = []
    for name in inspect.signature(model.forward).parameters:
        if name not in known:
            raise CaptureError(f"{' and '.join(_METAS)} say nothing of the input {name}")
        args.append(_made(name, known[name]))
    return Built(model.eval(), tuple(args))


def _described(path: Path) -> Iterator[dict[str, Any]]:
    """What each class of a file says, as far as that is plain values."""
    if not path.is_file():
        return
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise CaptureError(f"{path.name} is not Python: {error}") from error
    for definition in tree.body:
        if isinstance(definition, ast.ClassDef):
            yield dict(_fields(definition))


def _fields(definition: ast.ClassDef) -> Iterator[tuple[str, Any]]:
    for one in definition.body:
        if isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Name):
            try:
                yield one.targets[0].id, ast.literal_eval(one.value)
            except ValueError:
                continue  # infinite, or computed: no part of a shape


def _made(name: str, said: dict[str, Any]) -> Any:
    """A fake tensor; a number where a size is an input."""
    shape, data = said.get("shape"), said.get("data")
    dtype = getattr(torch, str(said.get("dtype", "")).removeprefix("torch."), None)
    if not isinstance(shape, list) or not isinstance(dtype, torch.dtype):
        raise CaptureError(
            f"the input {name} has shape {shape!r} and dtype {said.get('dtype')!r}: expected a "
            "list and a dtype of torch"
        )
    if not shape and not dtype.is_floating_point and isinstance(data, list) and len(data) == 1:
        return int(data[0])
    return torch.zeros(shape, dtype=dtype)
