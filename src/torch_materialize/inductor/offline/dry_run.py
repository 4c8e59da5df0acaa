"""Which kernels Inductor would launch under a policy, on a device that need not be there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch._inductor import config

from ... import activation
from ...core.devices import Device
from ...core.limits import limits_for
from ...core.policy import Policy
from ...errors import LeftToStockError
from ..fx.decision import NO_CHANGE
from ..fx.post_grad import PostGrad
from ..fx.rounding import emulation
from ..hooks import install
from ..lower.trial import trial
from ..lower.virtual_gpu import planned_device
from ..plan.outcome import Found, Outcome
from ..plan.search import search, unlike_claimed

__all__ = ["dry_run", "hooks_for", "verified"]


def dry_run(graph: PostGrad, policy: Policy, device: Device) -> Outcome:
    """Lowers and schedules ``graph`` under ``policy`` for ``device``; no code, no trace.

    The graph itself is left as it is; the run is repeatable.  What a compile would leave to stock,
    since a search would take too long, is lowered as stock's here, too.

    Raises:
        UnsupportedTorchError: the policy cannot be applied to this torch.
        Exception: whatever Inductor raises while lowering.
    """
    with planned_device(device), config.patch(emulation(policy)), hooks_for(policy):
        if policy.plans:
            try:
                found = search(graph, limits_for(device), policy)
            except LeftToStockError as error:
                left = trial(graph, NO_CHANGE, numerics=policy.numerics)
                return Outcome(*left, left_to_stock=str(error))
            return Outcome(found.graph, found.dag, found.bound, found)
        return Outcome(*trial(graph, policy=policy))


def verified(graph: PostGrad, policy: Policy, device: Device, found: Found) -> str:
    """What differs between a claim of :func:`dry_run` and what ships for it; "" if nothing.

    Raises:
        UnsupportedTorchError, Exception: as for :func:`dry_run`.
    """
    with planned_device(device), config.patch(emulation(policy)), hooks_for(policy):
        return unlike_claimed(graph, found, policy)


@contextlib.contextmanager
def hooks_for(policy: Policy) -> Iterator[None]:
    """Our hooks for the time of one trial lowering, however many other users need them."""
    if policy.is_stock:
        yield
        return
    try:
        with activation.block(policy):
            install.install()
            yield
    finally:
        install.remove_if_unneeded()
