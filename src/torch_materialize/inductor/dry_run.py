"""Which kernels Inductor would launch under a policy, on a device that need not be there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from torch._inductor import config
from torch._inductor.graph import GraphLowering

from .. import activation
from ..core.devices import Device
from ..core.graph import Graph
from ..core.policy import Policy
from . import patch
from .narrow import folded
from .planned import limits_for
from .reader import read_scheduled
from .rounding import emulation
from .search import search
from .trial import PostGrad, lowered
from .virtual_gpu import planned_device

__all__ = ["Outcome", "dry_run"]


@dataclass(frozen=True)
class Outcome:
    """The kernels of one dry run; ``bound`` in bytes, None where the policy has none."""

    graph: Graph
    bound: float | None = None


def dry_run(graph: PostGrad, policy: Policy, device: Device) -> Outcome:
    """Lowers and schedules ``graph`` under ``policy`` for ``device``; no code, no trace.

    The graph itself is left as it is; the run is repeatable.

    Raises:
        UnsupportedTorchError: the policy cannot be applied to this torch.
        Exception: whatever Inductor raises while lowering.
    """
    with planned_device(device), config.patch(emulation(policy)), _hooks_for(policy):
        if policy.name == "plan":
            found = search(graph, limits_for(device.is_gpu), policy)
            return Outcome(found.graph, found.bound)
        with lowered(folded(graph), policy, GraphLowering):
            return Outcome(read_scheduled())


@contextlib.contextmanager
def _hooks_for(policy: Policy) -> Iterator[None]:
    """Our hooks for the time of one dry run, however many others need them."""
    if policy.is_stock:
        yield
        return
    try:
        with activation.block(policy):
            patch.install()
            yield
    finally:
        patch.remove_if_unneeded()
