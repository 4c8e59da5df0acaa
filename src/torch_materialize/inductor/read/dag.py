"""From a lowered and scheduled graph to the planner's :class:`torch_materialize.core.dag.Dag`.

Values are keyed by the identity of their StorageBox: a view and a cast that does nothing
share their base's box, so no list of operators is needed.  After scheduling the box tells
what the value is: a Pointwise that stayed inlined or became a buffer of a fused kernel is
ours to decide; a reduction or a mutated buffer belongs to its kernel; the rest is in memory.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch._inductor import ir
from torch._inductor.utils import get_dtype_size, sympy_product

from ...core.dag import Dag, Fused, Kind, Value
from ...core.graph import Graph
from .kernels import is_fused
from .lifetimes import Lifetimes
from .pin_nodes import is_written, pinned
from .recording import Recording, rounded_as
from .schedule import Schedule, longest_held, numels, passes, reduced
from .storage import (
    buffer_name,
    buffer_reads,
    buffer_size,
    elements,
    is_gather,
    mutates,
    reads_nothing,
    storage_of,
)
from .work import is_delicate, kernel_operations, weight

__all__ = ["read_dag"]

# Values among which a copy's inputs are looked for; a loop computes far fewer.
_FAR = 1_000


def read_dag(lowered: Recording, scheduled: Graph) -> Dag:
    """Reads a lowering after scheduling; call inside its graph handler context.

    ``scheduled`` is what :func:`.kernels.read_scheduled` made of the same lowering.
    """
    reader = _Reader(lowered)
    for node, result in lowered.results.items():
        reader.add_node(node, result)
    reader.add_internal_buffers()
    bytes_of = {kernel.name: kernel.bytes for kernel in scheduled.kernels}
    return reader.finish(bytes_of)


class _Reader:
    """Two passes: FX nodes in program order, then buffers that no FX node stands for."""

    def __init__(self, lowered: Recording) -> None:
        self.order = {node: place for place, node in enumerate(lowered.results)}
        self.early = lowered.early
        self.schedule = Schedule(lowered)
        self.lifetimes = Lifetimes(lowered, self.schedule)
        self.values: list[dict[str, Any]] = []
        self.nodes: list[torch.fx.Node | None] = []
        self.forced: set[str] = set()
        self.of_node: dict[torch.fx.Node, tuple[int, ...]] = {}
        self.of_box: dict[int, int] = {}
        self.of_buffer: dict[str, int] = {}
        self.boxes: dict[int, ir.StorageBox] = {}
        self.gathers: dict[tuple[int, str, str, str], int] = {}
        self.touched: dict[int, set[str]] = {}
        self.internal_of: dict[torch.fx.Node | None, list[int]] = {}
        self.owner_of: dict[int, torch.fx.Node | None] = {}

    def _add(self, node: torch.fx.Node | None, **fields: Any) -> int:
        index = len(self.values)
        self.values.append({"index": index, "base": index, "required": False, **fields})
        self.nodes.append(node)
        return index

    def _require(self, indices: tuple[int, ...]) -> None:
        for i in indices:
            self.values[self.values[i]["base"]]["required"] = True

    def _inputs(self, node: torch.fx.Node) -> tuple[int, ...]:
        found = (i for x in node.all_input_nodes for i in self.of_node.get(x, ()))
        return tuple(dict.fromkeys(found))

    # First pass: FX nodes.

    def add_node(self, node: torch.fx.Node, result: Any) -> None:
        """Adds what one FX node computes; opaque nodes only make their inputs required."""
        inputs = self._inputs(node)
        box = storage_of(result)
        if box is not None and mutates(node) and self._add_version(node, box, inputs):
            return
        if box is None or (mutates(node) and not self._is_made_by_others(box)):
            self.of_node[node] = inputs
            if self._is_opaque(node, result):
                self._require(inputs)
        elif id(box) in self.of_box:
            self.of_node[node] = (self._add_view(node, result, box, inputs),)
        else:
            self.of_node[node] = (self._add_value(node, result, box, inputs),)

    def _is_opaque(self, node: torch.fx.Node, result: Any) -> bool:
        """Outputs, mutations and extern kernels read memory; a fused kernel with several
        outputs (a variance and its mean) does not.
        """
        if node.op == "output" or mutates(node) or not isinstance(result, tuple | list):
            return True
        boxes = [box for box in map(storage_of, result) if box is not None]
        return all(self._kind(box) is Kind.SOURCE for box in boxes)

    def _add_value(
        self, node: torch.fx.Node, result: Any, box: ir.StorageBox, inputs: tuple[int, ...]
    ) -> int:
        kind = self._kind(box)
        if kind is Kind.SOURCE and node.op == "call_function":
            self._require(inputs)
        numel = elements(sympy_product(result.get_size()))
        name = self._name(box)
        # Filled by one kernel and then scattered into by another: not ours to inline.
        scattered = (
            kind is Kind.POINTWISE and name in self.schedule.next_version and not is_written(node)
        )
        if scattered:
            name = self.schedule.last_version(str(name))
            kind = Kind.PINNED if name in self.schedule.fused else Kind.SOURCE
        if kind is Kind.POINTWISE and name is not None and not _has_value(node):
            kind = Kind.PINNED  # an assertion: its kernel makes it, and nobody can ask for it
        if kind is Kind.SOURCE or (reads_nothing(box) and not scattered):
            inputs = ()
        elif is_gather(node) and inputs:
            inputs = (self._gathered(node, inputs[0], numel), *inputs[1:])
        index = self._add(
            node,
            kind=kind,
            nbytes=numel * get_dtype_size(result.get_dtype()),
            numel=numel,
            inputs=inputs,
            ready=self.schedule.position.get(str(name), -1) if kind is Kind.SOURCE else -1,
            work=numel * weight(node),
            early=node in self.early
            and not isinstance(getattr(box.data, "layout", None), ir.NonOwningLayout),
        )
        self.of_box[id(box)] = index
        self.boxes[index] = box
        if name is not None:
            self.of_buffer[name] = index
        return index

    def _add_version(
        self, node: torch.fx.Node, box: ir.StorageBox, inputs: tuple[int, ...]
    ) -> bool:
        """Adds the new version of a value that a node writes into; False if there is none."""
        name = buffer_name(box)
        if id(box) not in self.of_box or name not in self.schedule.next_version:
            return False
        last = self.schedule.last_version(name)
        if last in self.of_buffer:
            return False
        old = self.of_box[id(box)]
        fused = last in self.schedule.fused
        self._require((old,) if fused else (old, *inputs))
        index = self._add(
            node,
            kind=Kind.PINNED if fused else Kind.SOURCE,
            nbytes=self.values[old]["nbytes"],
            numel=self.values[old]["numel"],
            inputs=inputs if fused else (),
            ready=-1 if fused else self.schedule.position.get(last, -1),
            required=True,
        )
        self.boxes[index] = box
        self.touched[index] = {last}
        self.of_buffer[last] = index
        self.of_box[id(box)] = index  # later views see this version
        self.of_node[node] = (index,)
        return True

    def _add_view(
        self, node: torch.fx.Node, result: Any, box: ir.StorageBox, inputs: tuple[int, ...]
    ) -> int:
        base = self.of_box[id(box)]
        is_strided = str(node.target).startswith("aten.as_strided")
        if is_strided and self.values[base]["kind"] is Kind.POINTWISE:
            # Inductor realizes what as_strided looks at.
            owner = self.nodes[base]
            self.forced |= {owner.name} if owner is not None else set()
        parent = next((i for i in inputs if self.values[i]["base"] == base), base)
        numel = self._shown(node, result)
        nbytes = min(numel * get_dtype_size(result.get_dtype()), self.values[base]["nbytes"])
        if nbytes >= self.values[parent]["nbytes"]:
            return parent  # the same elements under another shape
        return self._add(
            node, kind=Kind.VIEW, nbytes=nbytes, numel=numel, inputs=(parent,), base=base
        )

    @staticmethod
    def _shown(node: torch.fx.Node, result: Any) -> int:
        """Distinct elements that a view shows: broadcast dimensions count once."""
        val = node.meta.get("val")
        if not isinstance(val, torch.Tensor):
            return elements(sympy_product(result.get_size()))
        numel = 1
        for extent, stride in zip(val.shape, val.stride(), strict=True):
            numel *= elements(extent) if elements(stride) else 1
        return numel

    def _gathered(self, node: torch.fx.Node, index: int, accesses: int) -> int:
        """What a gather reads; equal gathers of one value read the same."""
        how = index, str(node.target), str(node.args[1:]), str(node.kwargs)
        if how not in self.gathers:
            self.gathers[how] = self._add_gather(index, accesses)
        return self.gathers[how]

    def _add_gather(self, index: int, accesses: int) -> int:
        """What a gather reads of a value: as many elements as it has accesses."""
        value = self.values[index]
        itemsize = value["nbytes"] // max(value["numel"], 1)
        if accesses * itemsize >= value["nbytes"]:
            return index
        return self._add(
            None,
            kind=Kind.VIEW,
            nbytes=accesses * itemsize,
            numel=accesses,
            inputs=(index,),
            base=value["base"],
        )

    def _kind(self, box: ir.StorageBox) -> Kind:
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

    def _is_made_by_others(self, box: ir.StorageBox) -> bool:
        """Whether an extern kernel made a new buffer, whatever it wrote into besides."""
        return id(box) not in self.of_box and self._kind(box) is Kind.SOURCE

    def _is_unread(self, data: Any) -> bool:
        """Whether a buffer came too late: its users had inlined it, and it was dropped."""
        if not isinstance(data, ir.ComputedBuffer) or type(data.data) is not ir.Pointwise:
            return False
        return data.get_name() not in self.schedule.position

    def _name(self, box: ir.StorageBox) -> str | None:
        """The buffer that a box is in, None where it is inlined."""
        return None if self._is_unread(box.data) else buffer_name(box)

    # Second pass: buffers inside of lowerings.

    def add_internal_buffers(self) -> None:
        """Adds partial sums, layout copies and the like, and lets their owners read them."""
        for kernel in self.schedule.kernels:
            for member in kernel.get_nodes():
                for name in member.get_buffer_names():
                    if name not in self.of_buffer:
                        self._add_internal(name, member)
        for owner, mine in self.internal_of.items():
            if owner is not None:
                self._read_internal(owner, mine)

    def _add_internal(self, name: str, member: Any) -> None:
        origins = [o for o in member.node.get_origins() if o in self.order]
        owner = max(origins, key=self.order.__getitem__, default=None)
        reads = {dep.name for dep in member.read_writes.reads}
        # Sorted: the order of a set of names is another in each process.
        known = tuple(sorted(self.of_buffer[name] for name in reads if name in self.of_buffer))
        near = self._inputs(owner) if owner is not None else ()
        near += self._own(owner, reads)
        # An input counts only if its own buffers are all read: by buffers alone, values
        # that are inlined on the way would be passed over.
        inputs = tuple(i for i in near if self._is_read(i, reads))
        inputs = inputs or self._copied(near, reads) or known
        fused = name in self.schedule.fused
        if not fused:  # an extern kernel inside a lowering: a convolution before its bias
            self._require(known)
            inputs = ()
        users = {user.get_name() for b in member.get_outputs() for user in b.users}
        mutated = any(b.get_mutations() for b in member.get_outputs())
        numel, nbytes = buffer_size(name)
        index = self._add(
            None,
            kind=Kind.PINNED if fused else Kind.SOURCE,
            nbytes=nbytes,
            numel=numel,
            inputs=inputs,
            ready=-1 if fused else self.schedule.position[name],
            required=name in self.schedule.outputs
            or name in self.schedule.next_version
            or bool(users - self.schedule.fused_members)
            or mutated,
        )
        self.of_buffer[name] = index
        self.touched[index] = {name}
        siblings = self.internal_of.setdefault(owner, [])
        if owner is not None:
            self.values[index]["label"] = f"{owner.name}#{len(siblings)}"
        siblings.append(index)
        self.owner_of[index] = owner

    def _read_internal(self, owner: torch.fx.Node, mine: list[int]) -> None:
        """A node with internal buffers reads those, and of its inputs what is left."""
        parts = dict.fromkeys((owner, *(u for u in owner.users if u.target is operator.getitem)))
        for i in sorted({i for node in parts for i in self.of_node.get(node, ())}):
            value = self.values[i]
            decided_here = value["kind"] in (Kind.POINTWISE, Kind.PINNED)
            if not decided_here or self.nodes[i] not in parts or i not in self.boxes:
                continue
            reads = buffer_reads(self.boxes[i])
            kept = tuple(x for x in value["inputs"] if self._is_read(x, reads))
            kept += self._own(owner, reads)
            value["inputs"] = kept or value["inputs"]

    def _own(self, owner: torch.fx.Node | None, reads: set[str]) -> tuple[int, ...]:
        """Those of a node's internal buffers that are read; it may have very many."""
        found = {self.of_buffer[name] for name in reads if name in self.of_buffer}
        return tuple(sorted(i for i in found if self.owner_of.get(i, self) is owner))

    def _copied(self, near: tuple[int, ...], reads: set[str]) -> tuple[int, ...]:
        """What a loop reads that computes an input once more, which became a buffer only later.

        So an operator of others gets a copy of an argument: what made it is made twice.
        """
        found, todo = [], list(near)
        seen = set(near)
        while todo and len(seen) < _FAR:
            i = todo.pop()
            if self._is_read(i, reads):
                found.append(i)
            elif self.values[i]["kind"] in (Kind.POINTWISE, Kind.VIEW):
                behind = set(self.values[i]["inputs"]) - seen
                seen |= behind
                todo += behind
        return tuple(sorted(found))

    def _is_read(self, index: int, reads: set[str]) -> bool:
        touched = self._touched(index)
        return bool(touched) and touched <= reads

    def _touched(self, index: int) -> set[str]:
        """Buffers that loading a value touches."""
        index = self.values[index]["base"]
        if index not in self.touched:
            box = self.boxes[index]
            name = self._name(box)
            self.touched[index] = {name} if name else buffer_reads(box)
        return self.touched[index]

    # The result.

    def finish(self, bytes_of: dict[str, int]) -> Dag:
        """The finished graph; ``bytes_of`` maps a kernel's name to its effective bytes."""
        fused = [
            (position, kernel)
            for position, kernel in enumerate(self.schedule.kernels)
            if is_fused(kernel)
        ]
        kernels = tuple(
            Fused(
                index=index,
                name=kernel.get_name(),
                position=position,
                writes=self._written(kernel),
                numels=numels(kernel),
                measured=bytes_of[kernel.get_name()],
                work=kernel_operations(kernel),
                delicate=is_delicate(kernel),
                reduced=reduced(kernel),
                held=longest_held(kernel),
                passes=passes(kernel),
            )
            for index, (position, kernel) in enumerate(fused)
        )
        held = {i for kernel in kernels for i in kernel.writes}
        self._add_lifetimes()
        values = []
        for fields, node in zip(self.values, self.nodes, strict=True):
            index = fields["index"]
            fields["inputs"] = tuple(dict.fromkeys(i for i in fields["inputs"] if i != index))
            if fields["kind"] is Kind.POINTWISE and index not in held:
                fields["required"] = False  # its reader took a copy: an internal buffer
            values.append(Value(**{**_named(node), **fields}))
        kept, never = pinned(self.of_node, values)
        never |= {
            value.index
            for value, node in zip(values, self.nodes, strict=True)
            if node is not None
            and value.kind is Kind.POINTWISE
            and (rounded_as(node) or not _has_value(node))
        }
        dag = Dag(tuple(values), kernels, kept & held, never)
        return dag.with_forced(frozenset(self.forced))

    def _add_lifetimes(self) -> None:
        for name, index in self.of_buffer.items():
            value, owner = self.values[index], self.of_buffer.get(self.lifetimes.memory(name))
            value["until"] = max(value.get("until", -1), self.lifetimes.until(name))
            if owner is not None and owner != index:
                value["memory"] = owner

    def _written(self, kernel: Any) -> tuple[int, ...]:
        names = (name for m in kernel.get_nodes() for name in m.get_buffer_names())
        return tuple(dict.fromkeys(self.of_buffer[name] for name in names))


def _named(node: torch.fx.Node | None) -> dict[str, str]:
    if node is not None and (rounded := rounded_as(node)):
        # Nobody can ask to store what is rounded in its place.
        return {"node": "", "label": f"{rounded}#unrounded"}
    name = node.name if node is not None else ""
    return {"node": name, "label": name}


def _has_value(node: torch.fx.Node) -> bool:
    """Whether a node notes what it computes, without which Inductor cannot be asked to store it."""
    return isinstance(node.meta.get("val"), torch.Tensor)
