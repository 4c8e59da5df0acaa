"""The first pass over a lowering: the value of each FX node, in program order."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import torch
from torch._inductor import ir
from torch._inductor.utils import get_dtype_size, sympy_product

from ...core.dag import Kind
from .pin_nodes import is_written
from .storage import buffer_name, elements, is_gather, mutates, reads_nothing, storage_of
from .values import Values
from .work import weight

__all__ = ["NodeReader", "has_value"]


class NodeReader:
    """Adds what FX nodes compute to ``values``.

    Attributes:
        forced: nodes that Inductor realizes whatever is decided.
    """

    def __init__(self, values: Values, early: Set[torch.fx.Node]) -> None:
        self._values = values
        self._early = early
        self._gathers: dict[tuple[int, str, str, str], int] = {}
        self.forced: set[str] = set()

    def add(self, node: torch.fx.Node, result: Any) -> None:
        """Adds what one FX node computes; opaque nodes only make their inputs required."""
        values = self._values
        inputs = values.inputs(node)
        box = storage_of(result)
        if box is not None and mutates(node) and self._add_version(node, box, inputs):
            return
        if box is None or (mutates(node) and not self._is_made_by_others(box)):
            values.of_node[node] = inputs
            if self._is_opaque(node, result):
                values.require(inputs)
        elif id(box) in values.of_box:
            values.of_node[node] = (self._add_view(node, result, box, inputs),)
        else:
            values.of_node[node] = (self._add_value(node, result, box, inputs),)

    def _is_opaque(self, node: torch.fx.Node, result: Any) -> bool:
        """Outputs, mutations and extern kernels read memory; a fused kernel with several
        outputs (a variance and its mean) does not.
        """
        if node.op == "output" or mutates(node) or not isinstance(result, tuple | list):
            return True
        boxes = [box for box in map(storage_of, result) if box is not None]
        return all(self._values.kind(box) is Kind.SOURCE for box in boxes)

    def _is_made_by_others(self, box: ir.StorageBox) -> bool:
        """Whether an extern kernel made a new buffer, whatever it wrote into besides."""
        return id(box) not in self._values.of_box and self._values.kind(box) is Kind.SOURCE

    def _add_value(
        self, node: torch.fx.Node, result: Any, box: ir.StorageBox, inputs: tuple[int, ...]
    ) -> int:
        values, schedule = self._values, self._values.schedule
        kind = values.kind(box)
        if kind is Kind.SOURCE and node.op == "call_function":
            values.require(inputs)
        numel = elements(sympy_product(result.get_size()))
        name = values.name(box)
        # Filled by one kernel and then scattered into by another: not ours to inline.
        scattered = (
            kind is Kind.POINTWISE and name in schedule.next_version and not is_written(node)
        )
        if scattered:
            name = schedule.last_version(str(name))
            kind = Kind.PINNED if name in schedule.fused else Kind.SOURCE
        if kind is Kind.POINTWISE and name is not None and not has_value(node):
            kind = Kind.PINNED  # an assertion: its kernel makes it, and no mark can store it
        if kind is Kind.SOURCE or (reads_nothing(box) and not scattered):
            inputs = ()
        elif is_gather(node) and inputs:
            inputs = (self._gathered(node, inputs[0], numel), *inputs[1:])
        index = values.add(
            node,
            kind=kind,
            nbytes=numel * get_dtype_size(result.get_dtype()),
            numel=numel,
            inputs=inputs,
            ready=schedule.position.get(str(name), -1) if kind is Kind.SOURCE else -1,
            work=numel * weight(node),
            early=node in self._early
            and not isinstance(getattr(box.data, "layout", None), ir.NonOwningLayout),
        )
        values.of_box[id(box)] = index
        values.boxes[index] = box
        if name is not None:
            values.of_buffer[name] = index
        return index

    def _add_version(
        self, node: torch.fx.Node, box: ir.StorageBox, inputs: tuple[int, ...]
    ) -> bool:
        """Adds the new version of a value that a node writes into; False if there is none."""
        values, schedule = self._values, self._values.schedule
        name = buffer_name(box)
        if id(box) not in values.of_box or name not in schedule.next_version:
            return False
        last = schedule.last_version(name)
        if last in values.of_buffer:
            return False
        old = values.of_box[id(box)]
        fused = last in schedule.fused
        values.require((old,) if fused else (old, *inputs))
        index = values.add(
            node,
            kind=Kind.PINNED if fused else Kind.SOURCE,
            nbytes=values.fields[old]["nbytes"],
            numel=values.fields[old]["numel"],
            inputs=inputs if fused else (),
            ready=-1 if fused else schedule.position.get(last, -1),
            required=True,
        )
        values.boxes[index] = box
        values.touched[index] = {last}
        values.of_buffer[last] = index
        values.of_box[id(box)] = index  # later views see this version
        values.of_node[node] = (index,)
        return True

    def _add_view(
        self, node: torch.fx.Node, result: Any, box: ir.StorageBox, inputs: tuple[int, ...]
    ) -> int:
        values = self._values
        base = values.of_box[id(box)]
        is_strided = str(node.target).startswith("aten.as_strided")
        if is_strided and values.fields[base]["kind"] is Kind.POINTWISE:
            # Inductor realizes what as_strided looks at.
            owner = values.nodes[base]
            self.forced |= {owner.name} if owner is not None else set()
        parent = next((i for i in inputs if values.fields[i]["base"] == base), base)
        numel = _shown(node, result)
        nbytes = min(numel * get_dtype_size(result.get_dtype()), values.fields[base]["nbytes"])
        if nbytes >= values.fields[parent]["nbytes"]:
            return parent  # the same elements under another shape
        return values.add(
            node, kind=Kind.VIEW, nbytes=nbytes, numel=numel, inputs=(parent,), base=base
        )

    def _gathered(self, node: torch.fx.Node, index: int, accesses: int) -> int:
        """What a gather reads; equal gathers of one value read the same."""
        how = index, str(node.target), str(node.args[1:]), str(node.kwargs)
        if how not in self._gathers:
            self._gathers[how] = self._add_gather(index, accesses)
        return self._gathers[how]

    def _add_gather(self, index: int, accesses: int) -> int:
        """What a gather reads of a value: as many elements as it has accesses."""
        value = self._values.fields[index]
        itemsize = value["nbytes"] // max(value["numel"], 1)
        if accesses * itemsize >= value["nbytes"]:
            return index
        return self._values.add(
            None,
            kind=Kind.VIEW,
            nbytes=accesses * itemsize,
            numel=accesses,
            inputs=(index,),
            base=value["base"],
        )


def _shown(node: torch.fx.Node, result: Any) -> int:
    """Distinct elements that a view shows: broadcast dimensions count once."""
    val = node.meta.get("val")
    if not isinstance(val, torch.Tensor):
        return elements(sympy_product(result.get_size()))
    numel = 1
    for extent, stride in zip(val.shape, val.stride(), strict=True):
        numel *= elements(extent) if elements(stride) else 1
    return numel


def has_value(node: torch.fx.Node) -> bool:
    """Whether a node notes what it computes, without which no mark can store it."""
    return isinstance(node.meta.get("val"), torch.Tensor)
