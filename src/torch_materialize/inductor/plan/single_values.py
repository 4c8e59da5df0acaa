"""A graph of pointwise operators as single tensors; operators on lists are unrolled."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._inductor import config, lowering

__all__ = ["TracedTensor", "TracedTensors", "unrolled"]

_COPY = torch.ops.aten.copy_.default
_LIST_COPIES = (torch.ops.aten._foreach_copy.default, torch.ops.aten._foreach_copy_.default)
# Pointwise, though they do not say so; a constant is written into the code of its users.
_POINTWISE = frozenset({torch.ops.prims.convert_element_type.default, torch.ops.aten.full.default})
_NARROW = (torch.bfloat16, torch.float16)
_JUDGED = (torch.float32, torch.float64, torch.int32, torch.int64, torch.bool, *_NARROW)
# Where it is known whether Inductor makes one kernel of a list.
_BACKENDS = {"cpu": ("cpu_backend", "cpp"), "cuda": ("cuda_backend", "triton")}


@dataclass(eq=False)
class TracedTensor:
    """One tensor.

    Attributes:
        given: it is an input.
        written: it is in memory whatever is decided: returned, copied into an input, or part of a
            list that Inductor makes a kernel of.
        users: what is computed from it.
    """

    tensor: Any
    inputs: tuple[TracedTensor, ...] = ()
    given: bool = False
    written: bool = False
    users: list[TracedTensor] = field(default_factory=list)

    @property
    def is_small(self) -> bool:
        """Whether it is a single number."""
        return bool(self.tensor.numel() == 1)

    @property
    def is_narrow(self) -> bool:
        """Whether it is stored with fewer digits than Inductor computes it with."""
        return self.tensor.dtype in _NARROW

    @property
    def nbytes(self) -> int:
        """Its bytes, each number once."""
        return int(self.tensor.numel() * self.tensor.element_size())

    @property
    def layout(self) -> tuple[object, ...]:
        """What has to be the same for one loop over two of them."""
        return self.tensor.device, tuple(self.tensor.shape), self.tensor.stride()


@dataclass
class TracedTensors:
    """A graph's values in program order.

    Attributes:
        copies: inputs, and what is copied into them.
        lists: what is computed by one operator on lists, on a GPU.
    """

    every: list[TracedTensor] = field(default_factory=list)
    copies: list[tuple[TracedTensor, TracedTensor]] = field(default_factory=list)
    lists: list[list[TracedTensor]] = field(default_factory=list)

    def add(self, value: TracedTensor) -> TracedTensor:
        """``value``, now one of them."""
        for other in dict.fromkeys(value.inputs):
            other.users.append(value)
        self.every.append(value)
        return value

    def copy(self, into: TracedTensor, value: TracedTensor) -> None:
        """Notes that an input gets the number of a value.

        Raises:
            ValueError: it is no input, or has other numbers than the value then.
        """
        if not into.given or into.tensor.dtype != value.tensor.dtype:
            raise ValueError
        value.written = True
        self.copies.append((into, value))


class _Unknown(ValueError):
    """A node is not one that is understood."""


def unrolled(graph: torch.fx.Graph) -> TracedTensors | None:
    """The values of a graph; None where one of its nodes is not pointwise, or of unknown size."""
    values = TracedTensors()
    made: dict[torch.fx.Node, Any] = {}
    try:
        for node in graph.nodes:
            made[node] = _made(node, made, values)
    except (ValueError, TypeError, KeyError, IndexError):
        return None
    return values


def _made(node: torch.fx.Node, made: dict[torch.fx.Node, Any], values: TracedTensors) -> Any:
    """What a node gives: a value, a list of them, or nothing."""
    if node.op == "output":
        for value in (made[other] for other in node.all_input_nodes):
            value.written = _one(value) is value
        return None
    if node.op == "placeholder":
        return values.add(TracedTensor(_tensor(node.meta.get("val")), given=True))
    if node.op != "call_function":
        raise _Unknown
    if node.target is operator.getitem:
        return made[node.args[0]][node.args[1]]
    if node.target is _COPY:
        if node.users or len(node.args) != 2:
            raise _Unknown
        return values.copy(*(_one(made[other]) for other in node.args))
    if node.target in lowering.foreach_ops:
        return _list(node, made, values)
    if not _is_pointwise(node.target):
        raise _Unknown
    inputs = tuple(_one(made[other]) for other in node.all_input_nodes)
    return values.add(TracedTensor(_tensor(node.meta.get("val")), inputs))


def _list(
    node: torch.fx.Node, made: dict[torch.fx.Node, Any], values: TracedTensors
) -> list[TracedTensor]:
    """What an operator on lists computes, place by place, as Inductor lowers it."""
    results = [_tensor(value) for value in node.meta["val"]]
    arguments: list[Any] = [*node.args, *node.kwargs.values()]
    if node.target in _LIST_COPIES:
        arguments = arguments[1:]  # written over, not read

    def at(place: int) -> tuple[TracedTensor, ...]:
        found = (x[place] if isinstance(x, Sequence) else x for x in arguments)
        return tuple(_one(made[x]) for x in found if isinstance(x, torch.fx.Node))

    in_place = _in_place(node)
    on_gpu = {result.device.type for result in results} == {"cuda"}
    kernel = on_gpu and (in_place or _used_singly(node))
    listed = [
        values.add(TracedTensor(result, at(place), written=kernel))
        for place, result in enumerate(results)
    ]
    if in_place:
        for into, value in zip(node.args[0], listed, strict=True):
            values.copy(_one(made[into]), value)
    if on_gpu:
        values.lists.append(listed)
    return listed


def _in_place(node: torch.fx.Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def _used_singly(node: torch.fx.Node) -> bool:
    """Whether something besides operators on lists needs a part: Inductor writes all of it then."""
    users = [user for part in node.users for user in part.users]
    return not node.users or any(user.target not in lowering.foreach_ops for user in users)


def _one(value: Any) -> TracedTensor:
    if not isinstance(value, TracedTensor):
        raise _Unknown
    return value


def _tensor(value: Any) -> torch.Tensor:
    """One plain tensor whose size is known."""
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
        raise _Unknown
    if not all(isinstance(extent, int) for extent in (*value.shape, *value.stride())):
        raise _Unknown
    name, backend = _BACKENDS.get(value.device.type, ("", ""))
    if value.dtype not in _JUDGED or getattr(config, name, backend) != backend:
        raise _Unknown
    return value


def _is_pointwise(target: object) -> bool:
    if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable:
        return False
    tags = target.tags
    if torch.Tag.nondeterministic_seeded in tags or target in lowering.fallbacks:
        return False
    known = torch.Tag.pointwise in tags or target in _POINTWISE
    return known and target in lowering.lowerings
