"""Where the first difference to eager arises: the shortest prefix that is not eager's.

The operators of a Dynamo graph are taken from its start up to some place, compiled as the model is,
and run on what eager fed to the graph.  What later operators read of a prefix is compared with
eager's.  A prefix that agrees and differs with one operator more is looked for: first in doubling
steps from the start, where compiling is cheap, then by halving.  For gradients it is the shortest
suffix, run backwards on the gradients that eager's loss gave.

What this cannot see: a prefix is another program than the whole.  What crosses its end is stored,
and Inductor may fuse what stands before it in another way than in the whole model.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from ..errors import brief
from ..events import log
from ..inductor.read.module_of import module_of
from ..inductor.read.pin_nodes import source_line
from ..results.agreement import Arises
from .compiled import Backend, Pieces, Recorded, compiled_part, fresh
from .ranges import Part, operators, part, places, target_name
from .values import bits, worst

__all__ = ["first_backward", "first_forward"]

_SEED = 0
Compile = Callable[[fx.GraphModule], Callable[..., Any]]


def first_forward(
    graphs: Sequence[Recorded], backend: Backend, cut: str, *, training: bool
) -> Arises | None:
    """The first operator after which a value is not eager's; None where no prefix shows one.

    ``cut`` is how the graphs are cut, "" for whole ones.
    """
    return _first(graphs, lambda graph: _Forward(graph, _compiler(backend, cut), training))


def first_backward(graphs: Sequence[Recorded], backend: Backend, cut: str) -> Arises | None:
    """The last operator before which a gradient is not eager's, as the backward runs."""
    return _first(
        list(reversed(graphs)), lambda graph: _Backward(graph, _compiler(backend, cut), True)
    )


def _compiler(backend: Backend, cut: str) -> Compile:
    if cut:
        return lambda module: Pieces(module, backend, cut)
    return lambda module: compiled_part(module, backend)


def _first(graphs: Sequence[Recorded], search: Callable[[Recorded], _Search]) -> Arises | None:
    for number, graph in enumerate(graphs):
        if operators(graph.module):
            found = search(graph).run()
            if found is not None:
                return found(number)
    return None


class _Search:
    """Looks for the operator with which a range of one graph stops being eager's."""

    direction = "forward"

    def __init__(self, graph: Recorded, compile_: Compile, training: bool) -> None:
        self.graph = graph
        self.nodes = operators(graph.module)
        self.training = training
        self._compile = compile_
        self._by_name = {node.name: node for node in graph.module.graph.nodes}

    def run(self) -> Callable[[int], Arises] | None:
        """What makes the finding from the graph's number; None where nothing differs."""
        lengths = self.lengths()
        low, high, step = -1, 0, 4
        found = self.differs(lengths[high])
        while found is None and high < len(lengths) - 1:
            low, high, step = high, min(high + step, len(lengths) - 1), step * 2
            found = self.differs(lengths[high])
        if found is None:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            here = self.differs(lengths[middle])
            if here is None:
                low = middle
            else:
                high, found = middle, here
        return lambda number: self._arises(lengths[high], found, number)

    def lengths(self) -> list[int]:
        """How many operators the ranges have that can be looked at."""
        return places(self.graph.module)

    def differs(self, length: int) -> tuple[str, torch.Tensor, torch.Tensor] | None:
        """The first tensor of a range that is not eager's: its name, ours, eager's."""
        raise NotImplementedError

    def operator(self, length: int) -> int:
        """The operator that a range has and one that is shorter by one has not."""
        raise NotImplementedError

    def alone(self, place: int) -> bool | None:
        """Whether the operator differs by itself."""
        raise NotImplementedError

    def run_part(self, piece: Part, values: dict[str, Any], compiled: bool) -> tuple[Any, ...]:
        """Runs a range on values by name, with the same random numbers each time."""
        run = self._compile(piece.module) if compiled else piece.module.forward
        torch.manual_seed(_SEED)
        with torch.set_grad_enabled(self.training):
            found = run(*[values[name] for name in piece.inputs])
        return tuple(found)

    def inputs(self) -> dict[str, Any]:
        """What eager fed to the graph, by name."""
        names = [n.name for n in self.graph.module.graph.find_nodes(op="placeholder")]
        values = self.graph.fresh_inputs(training=self.training)
        return dict(zip(names, values, strict=True))

    def eager_values(self, place: int) -> dict[str, Any]:
        """What eager has before the operator at ``place``: inputs, and what later ones read."""
        values = self.inputs()
        if place:
            before = part(self.graph.module, 0, place)
            with torch.no_grad():
                torch.manual_seed(_SEED)
                found = before.module.forward(*[values[name] for name in before.inputs])
            values.update(zip(before.outputs, found, strict=True))
        return values

    def _arises(
        self, length: int, found: tuple[str, torch.Tensor, torch.Tensor], number: int
    ) -> Arises:
        name, got, want = found
        place = self.operator(length)
        node = self.nodes[place]
        element = worst(got, want)
        path, kind = module_of(node)
        source = source_line(node)
        file, _, line = source.rpartition(":")
        dtype = str(want.dtype).removeprefix("torch.")
        return Arises(
            direction=self.direction,
            operator=target_name(node),
            value=name,
            place=place + 1,
            operators=len(self.nodes),
            graph=number + 1,
            source=source,
            text=linecache.getline(file, int(line)).strip() if line.isdigit() else "",
            module=path,
            layer=kind,
            type=f"{dtype}[{', '.join(map(str, want.shape))}]",
            elements=want.numel(),
            differ=element.differ,
            eager=element.eager,
            compiled=element.compiled,
            steps=element.steps,
            largest=element.largest,
            alone=self._alone(place),
        )

    def _alone(self, place: int) -> bool | None:
        try:
            return self.alone(place)
        except Exception as error:  # noqa: BLE001 - the finding stands without it
            log.info("operator %d could not be compiled alone: %s", place, brief(error))
            return None


class _Forward(_Search):
    """Prefixes: ``length`` operators from the start."""

    def differs(self, length: int) -> tuple[str, torch.Tensor, torch.Tensor] | None:
        return self._compared(part(self.graph.module, 0, length), self.inputs, range(length))

    def operator(self, length: int) -> int:
        return length - 1

    def alone(self, place: int) -> bool | None:
        piece = part(self.graph.module, place, place + 1)
        found = self._compared(piece, lambda: self.eager_values(place), range(place, place + 1))
        return found is not None

    def _compared(
        self, piece: Part, values: Callable[[], dict[str, Any]], made: range
    ) -> tuple[str, torch.Tensor, torch.Tensor] | None:
        if not piece.outputs:
            return None
        want = self.run_part(piece, values(), compiled=False)
        got = self.run_part(piece, values(), compiled=True)
        order = {self.nodes[i].name: i for i in made}
        pairs = zip(piece.outputs, got, want, strict=True)
        for name, one, other in sorted(pairs, key=lambda pair: order[pair[0]]):
            if isinstance(other, torch.Tensor) and not _same(one, other):
                return name, one, other
        return None


class _Backward(_Search):
    """Suffixes: ``length`` operators up to the end, forwards and backwards."""

    direction = "backward"

    def lengths(self) -> list[int]:
        count = len(self.nodes)
        allowed = {0, *places(self.graph.module)} - {count}
        return sorted(count - place for place in allowed)

    def operator(self, length: int) -> int:
        return len(self.nodes) - length

    def differs(self, length: int) -> tuple[str, torch.Tensor, torch.Tensor] | None:
        start = self.operator(length)
        piece = part(self.graph.module, start, len(self.nodes))
        return self._compared(piece, start, self._of_result(piece))

    def alone(self, place: int) -> bool | None:
        """The operator's backward on the gradients that eager hands to it."""
        piece = part(self.graph.module, place, place + 1)
        later = part(self.graph.module, place + 1, len(self.nodes))
        values = self._leaves(self.eager_values(place + 1))
        found = self._gradients(later, values, self._of_result(later), compiled=False)
        given = {name: found[name] for name in piece.outputs if found.get(name) is not None}
        return self._compared(piece, place, given) is not None

    def _of_result(self, piece: Part) -> dict[str, torch.Tensor]:
        """The gradients of the graph's outputs, by name."""
        result = next(iter(self.graph.module.graph.find_nodes(op="output"))).args[0]
        names = [getattr(node, "name", "") for node in result]
        return {
            names[place]: gradient
            for place, gradient in self.graph.gradients.items()
            if names[place] in piece.outputs
        }

    def _compared(
        self, piece: Part, start: int, given: dict[str, torch.Tensor]
    ) -> tuple[str, torch.Tensor, torch.Tensor] | None:
        want, got = (
            self._gradients(piece, self._leaves(self.eager_values(start)), given, compiled)
            for compiled in (False, True)
        )
        for name, other in want.items():
            if other is not None and not _same(got[name], other):
                return name, got[name], other
        return None

    def _leaves(self, values: dict[str, Any]) -> dict[str, Any]:
        """Values as the ends of a backward: every floating one is asked for its gradient."""
        return {name: self._leaf(name, one) for name, one in values.items()}

    def _leaf(self, name: str, one: Any) -> Any:
        if not isinstance(one, torch.Tensor) or not one.is_floating_point():
            return one
        node = self._by_name[name]
        example = node.meta.get("example_value")
        wanted = one.requires_grad or bool(getattr(example, "requires_grad", False))
        return fresh(one, training=False).requires_grad_(wanted)

    def _gradients(
        self, piece: Part, values: dict[str, Any], given: dict[str, torch.Tensor], compiled: bool
    ) -> dict[str, Any]:
        found = dict(zip(piece.outputs, self.run_part(piece, values, compiled), strict=True))
        ends = {name: found[name] for name in given if found[name].requires_grad}
        leaves = {
            name: values[name]
            for name in piece.inputs
            if isinstance(values[name], torch.Tensor) and values[name].requires_grad
        }
        if not ends or not leaves:
            return {}
        gradients = torch.autograd.grad(
            list(ends.values()),
            list(leaves.values()),
            [given[name] for name in ends],
            allow_unused=True,
        )
        return dict(zip(leaves, gradients, strict=True))


def _same(one: Any, other: torch.Tensor) -> bool:
    if not isinstance(one, torch.Tensor) or one.dtype != other.dtype:
        return False
    return one.shape == other.shape and bool(torch.equal(bits(one), bits(other)))
