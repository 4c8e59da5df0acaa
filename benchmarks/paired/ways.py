"""The ways in which one model is run: eager, under each policy, and compiled in pieces."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch._dynamo
from torch._dynamo import config as dynamo_config
from torch._inductor import config

import torch_materialize as tm
from torch_materialize.core.devices import Device
from torch_materialize.core.limits import Limits
from torch_materialize.core.policy import PREDICTED, parse
from torch_materialize.inductor.hooks import graph_lowering
from torch_materialize.inductor.offline import dry_run
from torch_materialize.inductor.plan.tune import variants

from .cases import Made
from .opaque import Opaque
from .pieces import Pieces

EAGER, PIECES = "eager", "piecewise"
#: Everything that is timed by default; ``again`` is stock a second time, and shows the noise.
STOCK, AGAIN = "stock", "stock again"
WAYS = (EAGER, STOCK, AGAIN, "traffic", "plan", PIECES)
#: How a variant of `plan` that `tune` would time begins; the rest of a way's name is its own.
_VARIANT = "plan, "
# Versions of one function that Dynamo may keep: ways, by the times that a graph of theirs breaks.
_MOST = 256


def beside_stock(ways: tuple[str, ...]) -> tuple[str, ...]:
    """``ways`` with what they are compared with: stock, and stock again for the noise."""
    return tuple(dict.fromkeys((STOCK, AGAIN, *ways)))


def steps(
    made: Made, ways: tuple[str, ...], part: str, *, keep_gradients: bool = False
) -> Iterator[tuple[str, Callable[[], Callable[[], Any]]]]:
    """Each way with what compiles it, which returns what runs one step; without those that a
    case has not.

    All of them stay compiled until this is called again.
    """
    torch._dynamo.reset()
    for way in ways:
        if way == EAGER and part == "fused":
            continue  # eager has no fused kernels
        if way == PIECES and not made.cuts:
            continue
        yield way, partial(_step, made, way, part, keep_gradients)


def policy_of(way: str) -> str:
    """The policy that compiles a way; "" for eager.

    Raises:
        LookupError: it is a variant of something else than `plan`.
    """
    if way in (STOCK, AGAIN, PIECES):
        return STOCK
    policy, comma, _ = way.partition(",")
    if comma and not way.startswith(_VARIANT):
        raise LookupError(f"{way!r}: only {_VARIANT.rstrip(', ')!r} has variants")
    return "" if way == EAGER else policy


def is_predicted(way: str) -> bool:
    """Whether a dry run can tell what a way moves."""
    return way not in (AGAIN, PIECES) and policy_of(way).partition(":")[0] in PREDICTED


@contextlib.contextmanager
def going(way: str) -> Iterator[None]:
    """Inside the block `plan` is planned as the variant that ``way`` names, if it names one.

    Raises:
        LookupError: there is no such variant on a device that was planned for; at the end of the
            block at the latest, since a compile falls back to stock instead of failing.
    """
    if not way.startswith(_VARIANT):
        yield
        return
    usual = graph_lowering.limits_for
    unknown: list[LookupError] = []

    def limits_for(device: Device | None) -> Limits:
        plan = parse("plan")
        every = variants(usual(device), plan).items()
        known = {name: limits for name, (limits, policy) in every if policy == plan}
        if way not in known:
            unknown.append(LookupError(f"no variant {way!r} here; there are {', '.join(known)}"))
            raise unknown[-1]
        return known[way]

    with (
        mock.patch.object(graph_lowering, "limits_for", limits_for),
        mock.patch.object(dry_run, "limits_for", limits_for),
    ):
        yield
    if unknown:
        raise unknown[0]


@contextlib.contextmanager
def alone(part: str) -> Iterator[None]:
    """Inside the block compiled graphs are as ``part`` wants them."""
    with config.patch(post_grad_custom_post_pass=Opaque() if part == "fused" else None):
        yield


def _step(made: Made, way: str, part: str, keep_gradients: bool) -> Callable[[], Any]:
    model = made.run
    if way != EAGER:
        with alone(part):
            # Dynamo takes what is compiled with equal options for the same; this one is not used.
            options: Any = {**tm.options(policy_of(way)), "trace.debug_dir": way}
            if way == PIECES:
                model = torch.compile(model, backend=Pieces(made.cuts, options), fullgraph=True)
            else:
                model = torch.compile(model, options=options)

    def infer() -> Any:
        with torch.no_grad():
            return model(*made.args, **made.kwargs)

    def train() -> Any:
        result = model(*made.args, **made.kwargs)
        _loss(result).backward()
        if not keep_gradients:
            made.run.zero_grad()  # type: ignore[attr-defined]
        return result

    def train_anew() -> Any:
        made.run.zero_grad()  # type: ignore[attr-defined]
        return train()

    step = (train_anew if keep_gradients else train) if made.training else infer
    if way != EAGER:
        with alone(part), going(way), _anew():
            step()  # compiles; what is tuned is tuned here
    return step


@contextlib.contextmanager
def _anew() -> Iterator[None]:
    """Inside the block nothing comes from a cache, and Dynamo fails where it would give up.

    Beyond its limit of compiled versions of one function it would run another of them, or none.
    """
    limit = dynamo_config.patch(recompile_limit=_MOST, fail_on_recompile_limit_hit=True)
    with limit, config.patch(force_disable_caches=True):
        yield


def _loss(result: torch.Tensor) -> torch.Tensor:
    return result.to(torch.promote_types(result.dtype, torch.float32)).pow(2).mean()
