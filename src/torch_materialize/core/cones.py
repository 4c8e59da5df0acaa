"""What each fused kernel could compute or read: the ground that the planner's choice is on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .dag import Dag, Fused, Kind, Moved

__all__ = ["Cone", "components", "cones"]


@dataclass
class Cone:
    """One kernel's reach.

    Attributes:
        roots: values that this kernel must compute.
        inside: values that it could compute.
        edge: values in memory whatever is decided, which it could read.
        cut: values that it would have to read: computing them would make its body too large.
        buffers: how many it takes in the dry run.
    """

    kernel: Fused
    roots: tuple[int, ...]
    buffers: int = 0
    inside: set[int] = field(default_factory=set)
    edge: set[int] = field(default_factory=set)
    cut: set[int] = field(default_factory=set)


def cones(dag: Dag, now: Sequence[Moved], body: int) -> list[Cone]:
    """The reach of every kernel; ``body`` is the most values that one may compute.

    What a kernel computes ``now``, in the dry run, it can compute, however much that is.
    """
    homes = dag.homes()
    result = [
        _behind(dag, homes, kernel, one, body) for kernel, one in zip(dag.kernels, now, strict=True)
    ]
    wanted = {i for cone in result for i in cone.inside | cone.cut}
    for cone in result:
        _beside(dag, homes, cone, wanted)
    return result


def _behind(dag: Dag, homes: dict[int, int], kernel: Fused, now: Moved, body: int) -> Cone:
    """Everything behind what the kernel writes, nearest first."""
    roots = tuple(i for i in kernel.writes if dag.fixed(i))
    cone = Cone(kernel, roots, len(now.reads) + len(now.writes))
    todo = list(kernel.writes)
    while todo:
        later: list[int] = []
        for i in todo:
            if i in cone.inside or i in cone.edge or i in cone.cut:
                continue
            value = dag.values[i]
            elsewhere = dag.fixed(i) and homes.get(i) != kernel.index
            if value.kind is Kind.POINTWISE and homes.get(i, -1) > kernel.index:
                elsewhere = False  # materialized too late for this kernel, which recomputes it
            # Of what is in memory every view is read by itself.
            if dag.values[value.base].kind is Kind.SOURCE or elsewhere:
                cone.edge.add(i)
            elif len(cone.inside) >= body and i not in now.computes:
                cone.cut.add(i)
            else:
                cone.inside.add(i)
                later.extend(value.inputs)
        todo = later
    return cone


def _beside(dag: Dag, homes: dict[int, int], cone: Cone, wanted: set[int]) -> None:
    """Values that other kernels want and this one could compute on the side.

    The bf16 residual is such a value: the norm kernel computes the fp32 sum that it rounds,
    but only the next layer reads it, so it is behind none of the norm kernel's roots.
    Without it there is no narrow cut.
    """
    grown = True
    while grown:
        grown = False
        near = {user for i in cone.inside for user in dag.users[i]} - cone.inside
        for i in sorted(near):
            value = dag.values[i]
            ours = value.kind in (Kind.POINTWISE, Kind.VIEW) and not dag.fixed(i)
            if not ours or i not in wanted:
                continue
            if value.kind is Kind.POINTWISE and value.numel not in cone.kernel.numels:
                continue
            if all(_at_hand(dag, homes, cone, x) for x in value.inputs):
                cone.inside.add(i)
                cone.edge.update(x for x in value.inputs if x not in cone.inside)
                cone.cut.discard(i)
                grown = True


def _at_hand(dag: Dag, homes: dict[int, int], cone: Cone, index: int) -> bool:
    """Whether the kernel can have a value: it computes it, or it is in memory by then."""
    if index in cone.inside or index in cone.edge:
        return True
    base = dag.values[dag.values[index].base]
    if base.kind is Kind.SOURCE:
        return base.ready < cone.kernel.position
    if not dag.fixed(base.index) or base.index not in homes:
        return False
    return homes[base.index] < cone.kernel.index


def components(
    dag: Dag, all_cones: list[Cone], alike: Sequence[tuple[int, ...]] = ()
) -> list[list[Cone]]:
    """Groups of kernels that share no undecided value; each can be planned by itself.

    Values in one tuple of ``alike`` are decided together, so they count as shared.
    """
    representative = {i: group[0] for group in alike for i in group}
    parent = list(range(len(all_cones)))

    def find(k: int) -> int:
        while parent[k] != k:
            parent[k] = parent[parent[k]]
            k = parent[k]
        return k

    first: dict[int, int] = {}
    for cone in all_cones:
        for i in cone.inside | cone.cut | cone.edge:
            base = dag.values[i].base
            if dag.values[base].kind is not Kind.SOURCE:
                base = representative.get(base, base)
                one = find(first.setdefault(base, cone.kernel.index))
                other = find(cone.kernel.index)
                parent[max(one, other)] = min(one, other)
    groups: dict[int, list[Cone]] = {}
    for cone in all_cones:
        groups.setdefault(find(cone.kernel.index), []).append(cone)
    return list(groups.values())
