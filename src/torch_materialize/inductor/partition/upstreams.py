"""AOTAutograd's own partitioner, with another choice of what the forward saves.

``min_cut_rematerialization_partition`` keeps what training promises: masks of random operators,
effects and mutations, tags and policies of ``torch.utils.checkpoint``, collectives, symbolic sizes,
the order of gradients.  The one thing that we decide is the list that it gets from
``choose_saved_values_set``, so that is the one object that we wrap; outside of :func:`deciding` it
passes every call on.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch._functorch import partitioners
from torch.fx import Graph, GraphModule, Node

from ...events import surprise

__all__ = ["Choose", "Halves", "deciding", "partition", "patch_choose_saved_values_set"]

_SEAM = "torch._functorch.partitioners:choose_saved_values_set"

#: Gets the joint graph, what upstream knows of its nodes, and a function that says what upstream
#: saves: gives what to save.
Choose: TypeAlias = Callable[[Graph, Any, Callable[[], list[Node]]], list[Node]]

_choose: ContextVar[Choose | None] = ContextVar("torch_materialize_saved", default=None)


@dataclass(frozen=True)
class Halves:
    """A joint graph that was cut."""

    forward: GraphModule
    backward: GraphModule


def patch_choose_saved_values_set(upstream: Callable[..., list[Node]]) -> Callable[..., list[Node]]:
    """Wraps upstream's choice of what is saved; dormant outside of :func:`deciding`."""

    @functools.wraps(upstream)
    def choose_saved_values_set(graph: Graph, info: Any, *more: Any, **named: Any) -> Any:
        choose = _choose.get()
        if choose is None:
            return upstream(graph, info, *more, **named)
        # A cut that is only measured says what is saved, and needs no minimum cut.
        stocks = functools.cache(lambda: list(upstream(graph, info, *more, **named)))
        try:
            with deciding(None):  # what is partitioned on the way is somebody else's
                return choose(graph, info, stocks)
        except Exception as error:  # noqa: BLE001 - a compile never fails because of us
            surprise(_SEAM, error)
            return stocks()

    return choose_saved_values_set


@contextlib.contextmanager
def deciding(choose: Choose | None) -> Iterator[None]:
    """Inside the block ``choose`` says what is saved, in this thread."""
    token = _choose.set(choose)
    try:
        yield
    finally:
        _choose.reset(token)


def partition(
    joint: GraphModule, inputs: Sequence[Any], how: dict[str, Any], choose: Choose
) -> Halves:
    """Cuts ``joint``, in place, where ``choose`` says; the wrapper must stand in its place.

    ``how`` are the keyword arguments that upstream gave to its partitioner.

    Raises:
        Exception: whatever upstream's partitioner raises.
    """
    with deciding(choose):
        return Halves(*partitioners.min_cut_rematerialization_partition(joint, inputs, **how))
