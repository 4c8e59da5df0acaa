"""From a lowered and scheduled graph to :class:`torch_materialize.core.graph.Graph`.

Bytes are *effective* bytes.  Inductor's own ``count_bytes()`` charges a whole embedding
table for a gather and a whole buffer for a slice; here distinct accesses of one buffer add up, what
is read through indices costs the distinct elements that it can touch (:mod:`.gathers`), nothing
costs more than the buffer's size, and a write counts only if the buffer leaves the kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch._inductor import ir
from torch._inductor.dependencies import MemoryDep, StarDep, WeakDep
from torch._inductor.scheduler import (
    BaseSchedulerNode,
    ExternKernelSchedulerNode,
    NopKernelSchedulerNode,
    SchedulerNode,
)
from torch._inductor.utils import get_dtype_size, sympy_product
from torch._inductor.virtualized import V

from ...core.graph import Graph, Kernel, Tensor
from .gathers import Gathers
from .pin_nodes import source_line
from .storage import elements

__all__ = ["is_fused", "read_scheduled"]


def read_scheduled() -> Graph:
    """Reads ``V.graph`` after scheduling.  Call inside the graph's handler context."""
    graph = V.graph
    outputs = set(graph.get_output_names())
    kernels = [_kernel(node, outputs) for node in _launches(graph.scheduler.nodes)]
    names = {name for k in kernels for name in (*k.reads, *k.writes)}
    return Graph(tuple(kernels), {name: _tensor(name) for name in sorted(names)})


def _launches(nodes: Iterable[Any]) -> Iterator[Any]:
    """Scheduled nodes that launch something; a concatenation in place launches nothing."""
    return (node for node in nodes if not isinstance(node, NopKernelSchedulerNode))


def _kernel(node: Any, outputs: set[str]) -> Kernel:
    members = list(node.get_nodes())
    made = {name for member in members for name in member.get_buffer_names()}
    reads: dict[str, list[Any]] = {}
    gathered: dict[str, int] = {}
    gathers = Gathers()
    for member in members:
        deps = [dep for dep in member.read_writes.reads if dep.name not in made]
        into = [dep for dep in deps if _is_written_into(dep, member)]
        deps = [dep for dep in deps if dep not in into]
        for dep in into:
            # What is added to is read where it is written; what is overwritten is not read.
            if dep.mode is not None:
                real, touched = _written_into(dep.name), map(_elements, member.read_writes.writes)
                gathered[real] = gathered.get(real, 0) + sum(touched)
        # Extern kernels and templates have no body that could be looked at.
        if getattr(member, "_body", None) is not None and any(map(_is_indirect, deps)):
            gathers.add(member)
            deps = [dep for dep in deps if not _is_indirect(dep)]
        for dep in deps:
            # A weak dependency orders kernels and reads nothing.
            if not isinstance(dep, WeakDep):
                reads.setdefault(_written_into(dep.name), []).append(dep)
    for name in sorted(gathers.names() - made):
        real = _written_into(name)
        gathered[real] = gathered.get(real, 0) + gathers.elements(name)
    found = (_read(name, reads.get(name, []), gathered.get(name, 0)) for name in reads | gathered)
    return Kernel(
        name=node.get_name(),
        kind=_kind(node),
        reads=dict(found),
        writes=dict(_writes(members, outputs)),
        computes=tuple(dict.fromkeys(_computed(members))),
    )


def _read(name: str, deps: list[Any], gathered: int) -> tuple[str, int]:
    """What a buffer is called after all that was written into it, and the bytes read."""
    later = [dep for dep in deps if dep.name != name]
    if later:
        # The whole of it under its earlier name is there for the order of kernels alone.
        deps = [dep for dep in deps if dep.name != name or not isinstance(dep, StarDep)]
    return later[-1].name if later else name, _bytes(name, deps, gathered)


def _is_written_into(dep: Any, member: Any) -> bool:
    """Whether a dependency stands for the buffer that a kernel of Inductor's writes into.

    It is on the whole of it, for the order of kernels: what such a kernel loads of the buffer it
    says beside that.
    """
    if not isinstance(dep, StarDep) or getattr(member, "_body", None) is None:
        return False
    real = V.graph.scheduler.mutation_real_name
    into = {name for buffer in member.get_outputs() for name in buffer.get_mutations()}
    return real.get(dep.name, dep.name) in {real.get(name, name) for name in into}


def is_fused(node: Any) -> bool:
    """Whether a scheduled node is a kernel that Inductor fuses and writes itself."""
    members = node.get_nodes()
    return not node.is_template() and all(isinstance(m, SchedulerNode) for m in members)


def _kind(node: Any) -> str:
    if node.is_template():
        return "template"
    if not is_fused(node):
        return "extern"
    return "reduction" if any(m.is_reduction() for m in node.get_nodes()) else "pointwise"


def _writes(members: list[Any], outputs: set[str]) -> Iterator[tuple[str, int]]:
    """Buffers of one kernel that somebody outside of it needs, with the bytes written."""
    inside = set(members)
    for member in members:
        deps: dict[str, set[Any]] = {}
        for dep in member.read_writes.writes:
            deps.setdefault(dep.name, set()).add(dep)
        for buffer in member.get_outputs():
            name = buffer.get_name()
            leaves = name in outputs or bool(buffer.get_mutations())
            if leaves or any(user.node not in inside for user in buffer.users):
                yield name, _bytes(name, deps.get(name, ()))


def _computed(members: Iterable[BaseSchedulerNode]) -> Iterator[str]:
    for member in members:
        if member.node is not None and not isinstance(member, ExternKernelSchedulerNode):
            read = _read_by(member)
            yield from (name for name in _origins(member.node) if name not in read)


def _origins(node: Any) -> list[str]:
    return [origin.name for origin in node.get_origins()]


def _read_by(member: BaseSchedulerNode) -> set[str]:
    """What a template only reads: its origins have it, if it was made while the template was."""
    if not isinstance(member.node, ir.TemplateBuffer):
        return set()
    names = (dep.name for dep in member.read_writes.reads)
    buffers = (V.graph.name_to_buffer.get(name) for name in names)
    return {name for buffer in buffers if buffer is not None for name in _origins(buffer)}


def _is_indirect(dep: Any) -> bool:
    return isinstance(dep, MemoryDep) and dep.is_indirect()


def _bytes(name: str, deps: Iterable[Any], gathered: int = 0) -> int:
    """Bytes of ``gathered`` elements and of distinct accesses of one buffer, at most its size."""
    if _is_no_tensor(name):
        return 0
    try:
        itemsize = get_dtype_size(V.graph.get_dtype(name))
        size = elements(V.graph.get_numel(name)) * itemsize
    except (KeyError, NotImplementedError):
        return 0  # no memory behind it: a token, a tuple of outputs
    distinct = {dep.normalize() if isinstance(dep, MemoryDep) else dep for dep in deps}
    return min(size, (gathered + sum(map(_elements, distinct))) * itemsize)


def _written_into(name: str) -> str:
    """The buffer that a name stands for after an extern kernel has written into it."""
    buffer = V.graph.name_to_buffer.get(name)
    while isinstance(buffer, ir.MutationOutput):
        (name,) = buffer.get_mutation_names()
        buffer = V.graph.name_to_buffer.get(name)
    return name


def _is_no_tensor(name: str) -> bool:
    """Whether a name stands for a script object or the like: vLLM passes layer names so."""
    return isinstance(V.graph.try_get_buffer(name), ir.NonTensorObj)


def _elements(dep: Any) -> int:
    # A scatter writes one element for each point of the loop, wherever the index sends it.
    return elements(sympy_product(dep.size) if _is_indirect(dep) else dep.get_numel())


def _tensor(name: str) -> Tensor:
    node = None
    buffer = V.graph.name_to_buffer.get(name)
    if buffer is not None:
        node = buffer.get_origin_node()
    if _is_no_tensor(name):
        return Tensor(name, "", 0, "none")
    try:
        real = _written_into(name)
        dtype = V.graph.get_dtype(real)
        size = elements(V.graph.get_numel(real)) * get_dtype_size(dtype)
        # Scalars passed by value have no shape to speak of.
        holder = V.graph.try_get_buffer(real)
        extents = holder.get_size() if holder is not None else ()
    except (KeyError, NotImplementedError):
        return Tensor(name, node.name if node is not None else "", 0, "none")
    return Tensor(
        name=name,
        node=node.name if node is not None else "",
        bytes=size,
        dtype=str(dtype).removeprefix("torch."),
        shape=tuple(str(extent) for extent in extents),
        source=source_line(node) if node is not None else "",
    )
