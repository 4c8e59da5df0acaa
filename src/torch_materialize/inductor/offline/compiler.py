"""How a program hands graphs to Inductor; imports nothing of it, so that targets can say it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Compiler"]


@dataclass(frozen=True)
class Compiler:
    """How a program hands graphs to Inductor that does more than ``torch.compile``.

    Attributes:
        split: from a Dynamo graph to the graphs that are compiled, in order.
        settings: Inductor's settings for each of them.
        scope: what is open while the model is traced and its graphs are made.
    """

    split: Callable[[torch.fx.GraphModule], list[torch.fx.GraphModule]]
    settings: Mapping[str, Any]
    scope: Callable[[], contextlib.AbstractContextManager[Any]]
