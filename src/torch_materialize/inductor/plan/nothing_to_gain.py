"""Whether a plan could save anything at all, seen in a post-grad graph without lowering it.

A trial lowering is as dear as Inductor's own lowering, and a step of an optimizer is hundreds of
nodes that no plan can improve.  What a plan decides is whether a value that nobody has to see is
written or computed again, so it can only save bytes where such a value is needed in more than one
place, or where Inductor writes one that is not fused with what reads it.  Here the first is
bounded, and graphs for which the second cannot be ruled out are not judged: the only ones that are
consist of pointwise operators, on tensors or on lists of them, between tensors of one shape and
layout wherever they meet.  A graph with matmuls or reductions is not: what is between them is
written or computed again for each, and a plan moves 15% less than stock in a step of Muon on a CPU.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch

from ...core.limits import Limits
from ..fx.post_grad import PostGrad
from .single_values import TracedTensor, TracedTensors, unrolled

__all__ = ["SavingBound", "most_saved", "nothing_to_gain"]

# Nodes whose loops Inductor certainly fuses: it stops at 64 (`config.max_fusion_size`).
_FUSED = 48
# What planning goes by may weigh a byte more than its usual time; see Limits.weights.
_CAUTION = 4


@dataclass(frozen=True)
class SavingBound:
    """Bytes: the ``most`` that a plan can save, and the ``least`` that every choice moves."""

    most: int
    least: int


def nothing_to_gain(graph: PostGrad, limits: Limits, numerics: str = "stored") -> bool:
    """Whether no plan for ``graph`` can promise what would be worth its trial lowering.

    Then nothing has to be rounded either: what is written with fewer digits is computed for
    nobody else.  Where every cast rounds (``numerics`` "eager") no such value may be there at all.
    """
    saving = most_saved(graph.module.graph)
    if saving is None or (numerics == "eager" and _has_narrow(graph.module.graph)):
        return False
    worth = max(limits.worth * saving.least, limits.node_bytes * graph.nodes)
    return _CAUTION * saving.most < worth


def most_saved(graph: torch.fx.Graph) -> SavingBound | None:
    """What plans could save at most; None where that is not known, or something is rounded."""
    values = unrolled(graph)
    if values is None or _may_be_rounded(values) or not _fuse(values):
        return None
    reached = _reached(values.every)
    most = least = 0
    for value in values.every:
        places, size = len(reached[value]), value.nbytes
        if value.written or value.given:
            least += size if places or value.written else 0
        elif value.is_small:
            most += size * (1 + places)  # written, and read in each place
        elif places > 1:
            most += (places - 1) * sum(other.nbytes for other in _behind(value))
        if value.given and value.is_small:
            most += size * places
    return SavingBound(most, least)


def _has_narrow(graph: torch.fx.Graph) -> bool:
    values = unrolled(graph)
    return values is None or any(value.is_narrow for value in values.every)


def _may_be_rounded(values: TracedTensors) -> bool:
    """Whether a kernel might write some value rounded, and go on with more digits.

    Of what need not be written only single numbers might be, and what is read from an input that
    is overwritten before all is computed from it: the rest is fused.
    """
    overwritten = {into for into, _ in values.copies}
    for value in values.every:
        if value.given or not value.is_narrow or not value.users:
            continue
        if value.written or value.is_small or not overwritten.isdisjoint(_behind(value)):
            return True
    return False


def _fuse(values: TracedTensors) -> bool:
    """Whether Inductor certainly makes one loop of whatever is computed from one another.

    Everything there has one shape and one layout, apart from single numbers, and is not too much.
    """
    group = {v: v for v in values.every if not v.given and not v.is_small}

    def root(value: TracedTensor) -> TracedTensor:
        while group[value] is not value:
            group[value] = group[group[value]]
            value = group[value]
        return value

    for value in group:
        for other in value.inputs:
            if other.is_small:
                continue
            if other.layout != value.layout:
                return False
            if other in group:
                group[root(other)] = root(value)
    sizes: dict[TracedTensor, int] = {}
    for value in group:
        sizes[root(value)] = sizes.get(root(value), 0) + 1
    # What is copied into an input is read in the input's layout.
    alike = all(into.layout == value.layout for into, value in values.copies)
    return alike and max(sizes.values(), default=0) <= _FUSED and _lists_fuse(values)


def _lists_fuse(values: TracedTensors) -> bool:
    """Whether the kernels that Inductor makes of lists are certainly fused with one another.

    It fuses lists of one length, place by place.  So each has as many, none of them unused, every
    value comes from its own place of the other lists, and nothing else is a kernel.
    """
    lists = [made for made in values.lists if not all(value.is_small for value in made)]
    if not lists:
        return True
    place = {value: index for made in lists for index, value in enumerate(made)}
    if len({len(made) for made in lists}) > 1:
        return False
    return all(value.given or _in_its_place(value, place) for value in values.every)


def _in_its_place(value: TracedTensor, place: dict[TracedTensor, int]) -> bool:
    if value not in place:
        # A single number, which is counted as written, or a constant, which is not.
        return value.is_small or not value.inputs
    used = bool(value.users) or value.written
    alike = all(place.get(other, place[value]) == place[value] for other in value.inputs)
    return used and alike


def _reached(values: list[TracedTensor]) -> dict[TracedTensor, frozenset[TracedTensor]]:
    """The written values that each is needed for, by way of values that may be computed again."""
    reached: dict[TracedTensor, frozenset[TracedTensor]] = {}
    for value in reversed(values):
        through = (reached[user] for user in value.users if not user.written)
        direct = (user for user in value.users if user.written)
        reached[value] = frozenset(itertools.chain(direct, *through))
    return reached


def _behind(value: TracedTensor) -> set[TracedTensor]:
    """What is in memory that computing a value reads."""
    found: set[TracedTensor] = set()
    seen, todo = {value}, [value]
    while todo:
        for other in todo.pop().inputs:
            if other.given or other.written:
                found.add(other)
            elif other not in seen:
                seen.add(other)
                todo.append(other)
    return found
