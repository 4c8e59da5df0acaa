"""From a lowered and scheduled graph to the planner's :class:`torch_materialize.core.dag.Dag`.

Two passes fill :class:`.values.Values`: FX nodes in program order (:mod:`.nodes`), then buffers
that no FX node stands for (:mod:`.internals`).  Here the kernels are added, and who must and who
cannot be stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from ...core.dag import Dag, Fused, Kind, Value, moved
from ...core.graph import Graph
from .internals import InternalReader
from .kernels import is_fused
from .lifetimes import Lifetimes
from .nodes import NodeReader, has_value
from .pin_nodes import pinned
from .recording import Recording, rounded_as
from .schedule import Schedule, longest_held, numels, passes, reduced
from .values import Values
from .work import is_delicate, kernel_operations

__all__ = ["read_dag"]


def read_dag(lowered: Recording, scheduled: Graph) -> Dag:
    """Reads a lowering after scheduling; call inside its graph handler context.

    ``scheduled`` is what :func:`.kernels.read_scheduled` made of the same lowering.
    """
    found = Values(Schedule(lowered))
    nodes = NodeReader(found, lowered.early)
    for node, result in lowered.results.items():
        nodes.add(node, result)
    InternalReader(found, lowered).read()
    kernels = _kernels(found, {kernel.name: kernel.bytes for kernel in scheduled.kernels})
    held = {i for kernel in kernels for i in kernel.writes}
    _add_lifetimes(found, Lifetimes(lowered, found.schedule))
    values = _finished(found, held)
    kept, never = pinned(found.of_node, values)
    never |= _never(found, values)
    dag = Dag(values, kernels, kept & held, never).with_forced(frozenset(nodes.forced))
    return _with_narrow(dag, found, {kernel.name: kernel.reads for kernel in scheduled.kernels})


def _kernels(found: Values, bytes_of: dict[str, int]) -> tuple[Fused, ...]:
    """The fused kernels; ``bytes_of`` maps a kernel's name to its effective bytes."""
    kernels = enumerate(found.schedule.kernels)
    fused = [(position, kernel) for position, kernel in kernels if is_fused(kernel)]
    return tuple(
        Fused(
            index=index,
            name=kernel.get_name(),
            position=position,
            writes=_written(found, kernel),
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


def _with_narrow(dag: Dag, found: Values, reads_of: Mapping[str, Mapping[str, int]]) -> Dag:
    """Kernels with what they read less of than their values seem to need.

    A cross entropy gathers one logit of each row: who reads that through a cast needs all logits as
    values go, and a plan that spares it the read would seem to save all of them.
    """
    kernels = []
    for kernel, one in zip(dag.kernels, moved(dag, dag.homes()), strict=True):
        needs = one.read_of(dag)
        reads = {
            found.of_buffer.get(name, -1): size for name, size in reads_of[kernel.name].items()
        }
        narrow = {base: size for base, size in reads.items() if size < needs.get(base, 0)}
        kernels.append(replace(kernel, narrow=narrow))
    return replace(dag, kernels=tuple(kernels))


def _written(found: Values, kernel: Any) -> tuple[int, ...]:
    names = (name for m in kernel.get_nodes() for name in m.get_buffer_names())
    return tuple(dict.fromkeys(found.of_buffer[name] for name in names))


def _add_lifetimes(found: Values, lifetimes: Lifetimes) -> None:
    for name, index in found.of_buffer.items():
        value, owner = found.fields[index], found.of_buffer.get(lifetimes.memory(name))
        value["until"] = max(value.get("until", -1), lifetimes.until(name))
        if owner is not None and owner != index:
            value["memory"] = owner


def _finished(found: Values, held: set[int]) -> tuple[Value, ...]:
    values = []
    for fields, node in zip(found.fields, found.nodes, strict=True):
        index = fields["index"]
        fields["inputs"] = tuple(dict.fromkeys(i for i in fields["inputs"] if i != index))
        if fields["kind"] is Kind.POINTWISE and index not in held:
            fields["required"] = False  # its reader took a copy: an internal buffer
        values.append(Value(**{**_named(node), **fields}))
    return tuple(values)


def _never(found: Values, values: tuple[Value, ...]) -> set[int]:
    """Values that no mark can store."""
    return {
        value.index
        for value, node in zip(values, found.nodes, strict=True)
        if node is not None
        and value.kind is Kind.POINTWISE
        and (rounded_as(node) or not has_value(node))
    }


def _named(node: torch.fx.Node | None) -> dict[str, str]:
    if node is not None and (rounded := rounded_as(node)):
        # No mark can store what is rounded in its place.
        return {"node": "", "label": f"{rounded}#unrounded"}
    name = node.name if node is not None else ""
    return {"node": name, "label": name}
