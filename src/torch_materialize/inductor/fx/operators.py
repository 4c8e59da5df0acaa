"""Operators of ours that stand in an FX graph for a while and change no number."""

from __future__ import annotations

import functools
import threading
from typing import Any

import torch

__all__ = ["identity"]

_lock = threading.Lock()
# A library unregisters its operators when it is collected.
_libraries: list[torch.library.Library] = []


def identity(name: str) -> Any:
    """The operator ``torch_materialize::name``, which copies its argument."""
    with _lock:
        return _define(name)


@functools.cache
def _define(name: str) -> Any:
    library = torch.library.Library("torch_materialize", "FRAGMENT")
    library.define(f"{name}(Tensor x) -> Tensor")
    library.impl(name, lambda x: x.clone(), "CompositeExplicitAutograd")
    _libraries.append(library)
    return getattr(torch.ops.torch_materialize, name).default
