"""Dynamo's graphs: recorded as eager runs them, and compiled under a policy, whole or cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch._dynamo
from torch import fx
from torch._dynamo import lookup_backend

from ..core.devices import Device
from ..core.policy import parse
from ..inductor.fx.post_grad import copy_graph
from .ranges import Part, cut_places, part

__all__ = [
    "Backend",
    "Pieces",
    "Recorded",
    "Recorder",
    "backend_of",
    "compiled_part",
    "fresh",
    "options_of",
]

#: From operators in a row to what runs them, compiled.
Run = Callable[..., tuple[Any, ...]]
#: What Dynamo calls to have a graph compiled.
Backend = Callable[[fx.GraphModule, Sequence[Any]], Callable[..., Any]]


def options_of(policy: str) -> dict[str, Any]:
    """What ``torch.compile`` is called with: random numbers are drawn as eager draws them."""
    from ..api import options

    return {**options(policy), "fallback_random": True}


def backend_of(policy: str, planned: Device | None) -> Backend:
    """What compiles a graph under a policy: Inductor, for a GPU that is planned if there is one."""
    if planned is not None:
        from ..inductor.offline.planned_backend import planned_backend

        return planned_backend(parse(policy), planned)
    inductor: Any = lookup_backend("inductor")
    return partial(inductor, config_patches=options_of(policy))


def compiled_part(module: fx.GraphModule, backend: Backend) -> Run:
    """A graph that is compiled when it is called first."""
    compiled: list[Callable[..., Any]] = []

    def run(*inputs: Any) -> tuple[Any, ...]:
        if not compiled:
            # Upstream's passes write into what they are given.
            compiled.append(backend(copy_graph(module), list(inputs)))
        return tuple(compiled[0](*inputs))

    return run


class Pieces:
    """A Dynamo graph that runs as several graphs, one after the other.

    Attributes:
        compiled: how many of them Inductor compiles.
    """

    def __init__(self, module: fx.GraphModule, backend: Backend, how: str) -> None:
        self._names = [node.name for node in module.graph.find_nodes(op="placeholder")]
        self._result = next(iter(module.graph.find_nodes(op="output"))).args[0]
        self._steps: list[tuple[Part, Run]] = []
        self.compiled = 0
        for start, stop, is_compiled in cut_places(module, how):
            piece = part(module, start, stop)
            run: Run = piece.module
            if is_compiled and any(n.op.startswith("call") for n in piece.module.graph.nodes):
                run = compiled_part(piece.module, backend)
                self.compiled += 1
            self._steps.append((piece, run))
        kept: set[str] = set()
        fx.map_arg(self._result, lambda node: kept.add(node.name))
        # A value goes when nothing that is still to run reads it, as in one graph.
        self._drops: list[tuple[str, ...]] = []
        for piece, _ in reversed(self._steps):
            self._drops.append(tuple(name for name in piece.inputs if name not in kept))
            kept.update(piece.inputs)
        self._drops.reverse()

    def __call__(self, *inputs: Any) -> Any:
        """What the whole graph would return."""
        values = dict(zip(self._names, inputs, strict=True))
        for (piece, run), drops in zip(self._steps, self._drops, strict=True):
            found = run(*[values[name] for name in piece.inputs])
            values.update(zip(piece.outputs, found, strict=True))
            for name in drops:
                del values[name]
        return fx.map_arg(self._result, lambda node: values[node.name])


@dataclass
class Recorded:
    """One Dynamo graph as it ran in eager.

    Attributes:
        inputs: what it was called with, before it ran.
        gradients: by the outputs' places what the backward handed to them.
    """

    module: fx.GraphModule
    inputs: tuple[Any, ...] = ()
    gradients: dict[int, torch.Tensor] = field(default_factory=dict)

    def fresh_inputs(self, *, training: bool) -> tuple[Any, ...]:
        """The inputs anew: what is run writes into none of those that were kept."""
        return tuple(fresh(one, training=training) for one in self.inputs)


def fresh(one: Any, *, training: bool) -> Any:
    """A copy of a tensor, of its own graph of gradients; anything else as it is."""
    if not isinstance(one, torch.Tensor):
        return one
    copied = one.detach().clone()
    return copied.requires_grad_(one.requires_grad) if training else copied


class Recorder:
    """A Dynamo backend that runs graphs eagerly and keeps each, with what its first call saw."""

    def __init__(self) -> None:
        self.graphs: list[Recorded] = []

    def __call__(self, module: fx.GraphModule, _inputs: Sequence[Any]) -> Callable[..., Any]:
        """What Dynamo is to call for a graph."""
        kept = Recorded(module)

        def run(*inputs: Any) -> Any:
            is_first = all(one is not kept for one in self.graphs)
            if is_first:
                kept.inputs = tuple(_kept(one) for one in inputs)
                self.graphs.append(kept)
            found = module.forward(*inputs)
            if is_first:
                for place, one in enumerate(found):
                    if isinstance(one, torch.Tensor) and one.requires_grad:
                        one.register_hook(_keeps(kept.gradients, place))
            return found

        return run


def _kept(one: Any) -> Any:
    """An input that nothing will write into, as nothing does into weights: no optimizer runs."""
    if isinstance(one, torch.nn.Parameter) or not isinstance(one, torch.Tensor):
        return one
    return one.detach().clone().requires_grad_(one.requires_grad)


def _keeps(gradients: dict[int, torch.Tensor], place: int) -> Callable[[torch.Tensor], None]:
    def keep(gradient: torch.Tensor) -> None:
        gradients[place] = gradient.detach().clone()

    return keep
