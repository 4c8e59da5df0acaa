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

from ...errors import MemoryBudgetError
from ...events import surprise

__all__ = ["Choose", "Halves", "Stock", "deciding", "partition", "patch_choose_saved_values_set"]

_SEAM = "torch._functorch.partitioners:choose_saved_values_set"


class Stock:
    """What upstream saves of one joint graph.

    ``budget`` is what upstream was given for it: ``activation_memory_budget``, or what a region of
    the model is annotated with; 1 is no budget.
    """

    def __init__(self, saved: Callable[[float], list[Node]], budget: float) -> None:
        self.budget = budget
        self.saved_within = functools.cache(saved)

    def saved(self) -> list[Node]:
        """The nodes that upstream saves; cheap the second time."""
        return self.saved_within(self.budget)


#: Gets the joint graph, what upstream knows of its nodes, and what upstream saves: gives what to
#: save.
Choose: TypeAlias = Callable[[Graph, Any, Stock], list[Node]]

_choose: ContextVar[Choose | None] = ContextVar("torch_materialize_saved", default=None)


@dataclass(frozen=True)
class Halves:
    """A joint graph that was cut."""

    forward: GraphModule
    backward: GraphModule


def patch_choose_saved_values_set(upstream: Callable[..., list[Node]]) -> Callable[..., list[Node]]:
    """Wraps upstream's choice of what is saved; dormant outside of :func:`deciding`."""

    @functools.wraps(upstream)
    def choose_saved_values_set(
        joint_graph: Graph, node_info: Any, memory_budget: float = 1
    ) -> list[Node]:
        choose = _choose.get()
        # A cut that is only measured says what is saved, and needs no minimum cut.
        stock = Stock(lambda budget: list(upstream(joint_graph, node_info, budget)), memory_budget)
        if choose is None:
            return stock.saved()
        try:
            with deciding(None):  # what is partitioned on the way is somebody else's
                return choose(joint_graph, node_info, stock)
        except MemoryBudgetError:
            raise  # what the user wants cannot be had, and that is what is said
        except Exception as error:  # noqa: BLE001 - a compile never fails because of us
            surprise(_SEAM, error)
            return stock.saved()

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
