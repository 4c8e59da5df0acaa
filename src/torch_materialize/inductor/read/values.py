"""The values of a graph while they are read, and the StorageBox and buffer that each is in.

Values are keyed by the identity of their StorageBox: a view and a cast that does nothing
share their base's box, so no list of operators is needed.  After scheduling the box says
what the value is: a Pointwise that stayed inlined or became a buffer of a fused kernel is
ours to decide; a reduction or a mutated buffer belongs to its kernel; the rest is in memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch._inductor import ir

from ...core.dag import Kind
from .schedule import Schedule
from .storage import buffer_name, buffer_reads

__all__ = ["Values"]


class Values:
    """The values found so far.

    Attributes:
        schedule: of the lowering that is read.
        fields: of each value, for :class:`torch_materialize.core.dag.Value`.
        nodes: the FX node of each value, None where it has none.
        of_node, of_box, of_buffer: the values of a node, of a box (by identity), of a buffer.
        boxes: value -> its box.
        touched: value -> the buffers that loading it touches, where they are known.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.fields: list[dict[str, Any]] = []
        self.nodes: list[torch.fx.Node | None] = []
        self.of_node: dict[torch.fx.Node, tuple[int, ...]] = {}
        self.of_box: dict[int, int] = {}
        self.of_buffer: dict[str, int] = {}
        self.boxes: dict[int, ir.StorageBox] = {}
        self.touched: dict[int, set[str]] = {}

    def add(self, node: torch.fx.Node | None, **fields: Any) -> int:
        """Adds a value, its own base and not required unless ``fields`` say otherwise."""
        index = len(self.fields)
        self.fields.append({"index": index, "base": index, "required": False, **fields})
        self.nodes.append(node)
        return index

    def require(self, indices: tuple[int, ...]) -> None:
        """Somebody reads these values, or what they are views of, from memory."""
        for i in indices:
            self.fields[self.fields[i]["base"]]["required"] = True

    def inputs(self, node: torch.fx.Node) -> tuple[int, ...]:
        """The values that an FX node reads, each once."""
        found = (i for x in node.all_input_nodes for i in self.of_node.get(x, ()))
        return tuple(dict.fromkeys(found))

    def kind(self, box: ir.StorageBox) -> Kind:
        """Who decides about what is in a box."""
        data = box.data
        if isinstance(data, ir.Pointwise) or self._is_unread(data):
            return Kind.POINTWISE
        if isinstance(data, ir.Reduction | ir.Scan | ir.Sort):
            return Kind.PINNED
        if isinstance(data, ir.ComputedBuffer) and data.get_name() in self.schedule.fused:
            mutated = isinstance(data.layout, ir.MutationLayoutSHOULDREMOVE)
            plain = type(data.data) is ir.Pointwise and not mutated
            return Kind.POINTWISE if plain else Kind.PINNED
        return Kind.SOURCE

    def name(self, box: ir.StorageBox) -> str | None:
        """The buffer that a box is in, None where it is inlined."""
        return None if self._is_unread(box.data) else buffer_name(box)

    def is_read(self, index: int, reads: set[str]) -> bool:
        """Whether what reads these buffers reads all that loading the value touches."""
        touched = self._touched(index)
        return bool(touched) and touched <= reads

    def _touched(self, index: int) -> set[str]:
        index = self.fields[index]["base"]
        if index not in self.touched:
            box = self.boxes[index]
            name = self.name(box)
            self.touched[index] = {name} if name else buffer_reads(box)
        return self.touched[index]

    def _is_unread(self, data: Any) -> bool:
        """Whether a buffer came too late: its users had inlined it, and it was dropped."""
        if not isinstance(data, ir.ComputedBuffer) or type(data.data) is not ir.Pointwise:
            return False
        return data.get_name() not in self.schedule.position
