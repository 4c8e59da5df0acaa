"""A lowering that keeps what became of every FX node."""

from __future__ import annotations

from typing import Any

import torch
from torch._inductor.graph import GraphLowering
from torch._inductor.sizevars import SizeVarAllocator

from .static_sizes import StaticSizes, is_static
from .storage import buffer_name, storage_of

__all__ = ["ROUNDED_AS", "Recording", "rounded_as"]

#: On a node whose rounded value took its name (:mod:`..fx.rounding`): the name.
ROUNDED_AS = "torch_materialize_rounded_as"


def rounded_as(node: torch.fx.Node) -> str:
    """The name that a node had before its rounded value took it; "" where it is not rounded."""
    name: str = node.meta.get(ROUNDED_AS, "")
    return name


class Recording(GraphLowering):
    """A lowering that remembers what every FX node became, and which were buffers at once."""

    sizevars: SizeVarAllocator

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.results: dict[torch.fx.Node, Any] = {}
        self.early: set[torch.fx.Node] = set()
        super().__init__(*args, **kwargs)
        shape_env = self.sizevars.shape_env
        if is_static(shape_env):
            self.sizevars = StaticSizes(shape_env)

    def run_node(self, n: torch.fx.Node) -> object:
        """Lowers one node as upstream does, and keeps the result."""
        result = super().run_node(n)
        self.results[n] = result
        box = storage_of(result)
        if box is not None and buffer_name(box) is not None:
            self.early.add(n)
        return result
