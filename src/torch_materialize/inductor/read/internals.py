"""The second pass over a lowering: buffers that no FX node stands for.

Partial sums, layout copies and the like, which an FX node's lowering makes for itself.
"""

from __future__ import annotations

import operator
from typing import Any

import torch

from ...core.dag import Kind
from .recording import Recording
from .storage import buffer_reads, buffer_size
from .values import Values

__all__ = ["InternalReader"]

# Values among which a copy's inputs are looked for; a loop computes far fewer.
_FAR = 1_000


class InternalReader:
    """Adds the buffers inside of lowerings to ``values``, and lets their owners read them."""

    def __init__(self, values: Values, lowered: Recording) -> None:
        self._values = values
        self._order = {node: place for place, node in enumerate(lowered.results)}
        self._of_owner: dict[torch.fx.Node | None, list[int]] = {}
        self._owner_of: dict[int, torch.fx.Node | None] = {}

    def read(self) -> None:
        """Reads them all."""
        for kernel in self._values.schedule.kernels:
            for member in kernel.get_nodes():
                for name in member.get_buffer_names():
                    if name not in self._values.of_buffer:
                        self._add(name, member)
        for owner, mine in self._of_owner.items():
            if owner is not None:
                self._let_read(owner, mine)

    def _add(self, name: str, member: Any) -> None:
        values, schedule = self._values, self._values.schedule
        origins = [o for o in member.node.get_origins() if o in self._order]
        owner = max(origins, key=self._order.__getitem__, default=None)
        reads = {dep.name for dep in member.read_writes.reads}
        # Sorted: the order of a set of names is another in each process.
        known = tuple(sorted(values.of_buffer[name] for name in reads if name in values.of_buffer))
        near = values.inputs(owner) if owner is not None else ()
        near += self._own(owner, reads)
        # An input counts only if its own buffers are all read: by buffers alone, values
        # that are inlined on the way would be passed over.
        inputs = tuple(i for i in near if values.is_read(i, reads))
        inputs = inputs or self._copied(near, reads) or known
        fused = name in schedule.fused
        if not fused:  # an extern kernel inside a lowering: a convolution before its bias
            values.require(known)
            inputs = ()
        users = {user.get_name() for b in member.get_outputs() for user in b.users}
        mutated = any(b.get_mutations() for b in member.get_outputs())
        numel, nbytes = buffer_size(name)
        index = values.add(
            None,
            kind=Kind.PINNED if fused else Kind.SOURCE,
            nbytes=nbytes,
            numel=numel,
            inputs=inputs,
            ready=-1 if fused else schedule.position[name],
            required=name in schedule.outputs
            or name in schedule.next_version
            or bool(users - schedule.fused_members)
            or mutated,
        )
        values.of_buffer[name] = index
        values.touched[index] = {name}
        siblings = self._of_owner.setdefault(owner, [])
        if owner is not None:
            values.fields[index]["label"] = f"{owner.name}#{len(siblings)}"
        siblings.append(index)
        self._owner_of[index] = owner

    def _let_read(self, owner: torch.fx.Node, mine: list[int]) -> None:
        """A node with internal buffers reads those, and of its inputs what is left."""
        values = self._values
        parts = dict.fromkeys((owner, *(u for u in owner.users if u.target is operator.getitem)))
        for i in sorted({i for node in parts for i in values.of_node.get(node, ())}):
            value = values.fields[i]
            decided_here = value["kind"] in (Kind.POINTWISE, Kind.PINNED)
            if not decided_here or values.nodes[i] not in parts or i not in values.boxes:
                continue
            reads = buffer_reads(values.boxes[i])
            kept = tuple(x for x in value["inputs"] if values.is_read(x, reads))
            kept += self._own(owner, reads)
            value["inputs"] = kept or value["inputs"]

    def _own(self, owner: torch.fx.Node | None, reads: set[str]) -> tuple[int, ...]:
        """Those of a node's internal buffers that are read; it may have very many."""
        of_buffer = self._values.of_buffer
        found = {of_buffer[name] for name in reads if name in of_buffer}
        return tuple(sorted(i for i in found if self._owner_of.get(i, self) is owner))

    def _copied(self, near: tuple[int, ...], reads: set[str]) -> tuple[int, ...]:
        """What a loop reads that computes an input once more, which became a buffer only later.

        So an extern operator gets a copy of an argument: what made it is made twice.
        """
        fields = self._values.fields
        found, todo = [], list(near)
        seen = set(near)
        while todo and len(seen) < _FAR:
            i = todo.pop()
            if self._values.is_read(i, reads):
                found.append(i)
            elif fields[i]["kind"] in (Kind.POINTWISE, Kind.VIEW):
                behind = set(fields[i]["inputs"]) - seen
                seen |= behind
                todo += behind
        return tuple(sorted(found))
