"""A model compiled in pieces, cut at attention, as vLLM compiles it unless it is told otherwise.

The pieces are cut out of one graph of the whole model, and called in turn by what Dynamo made of
its Python: a model that breaks its graph instead would be compiled function by function, and
Dynamo would from then on break the graphs of every other model of that class, too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch._inductor.compile_fx import compile_fx
from torch.fx.passes.split_module import split_module

#: Operator -> what is called in its place between two pieces.
Cuts = Mapping[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]


class Pieces:
    """A backend for ``torch.compile``: between the operators ``cuts`` everything is compiled,
    each stretch by itself, with ``options`` of Inductor's."""

    def __init__(self, cuts: Cuts, options: dict[str, Any]) -> None:
        self._cuts = {str(operator): called for operator, called in cuts.items()}
        self._options = options

    def __call__(self, module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        found = split_module(
            module, nn.Module(), self._numbers(module).__getitem__, keep_original_order=True
        )
        for name, piece in list(found.named_children()):
            cut = self._called(piece.graph.nodes)
            setattr(found, name, _Called(cut) if cut else _Piece(piece, self._options))
        return found

    def _numbers(self, module: torch.fx.GraphModule) -> dict[torch.fx.Node, int]:
        """Node -> number of its piece; each operator at which the graph is cut has its own."""
        numbers, number = {}, 0
        for node in module.graph.nodes:
            cut = self._called([node]) is not None
            number += cut
            numbers[node] = number
            number += cut
        return numbers

    def _called(self, nodes: Collection[torch.fx.Node]) -> Callable[..., torch.Tensor] | None:
        targets = (str(node.target).removesuffix(".default") for node in nodes)
        return next((self._cuts[name] for name in targets if name in self._cuts), None)


class _Called(nn.Module):
    """What stands between two pieces."""

    def __init__(self, called: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self._called = called

    def forward(self, *args: Any) -> torch.Tensor:
        return self._called(*args)


class _Piece(nn.Module):
    """One piece, compiled as it is called for the first time."""

    def __init__(self, piece: nn.Module, options: dict[str, Any]) -> None:
        super().__init__()
        self._module = piece
        self._options = options
        self._compiled: Callable[..., Any] | None = None

    def forward(self, *args: Any) -> Any:
        if self._compiled is None:
            self._compiled = compile_fx(self._module, args, config_patches=self._options)
        return self._compiled(*args)
