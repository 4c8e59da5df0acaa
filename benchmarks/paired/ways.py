"""The ways in which one model is run: eager, under each policy, and compiled in pieces."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch._dynamo
from torch._inductor import config

import torch_materialize as tm
from torch_materialize.core.devices import Device
from torch_materialize.core.limits import Limits
from torch_materialize.core.policy import PREDICTED, parse
from torch_materialize.inductor import dry_run, planned
from torch_materialize.inductor.tune import variants

from .cases import Made
from .opaque import Opaque
from .pieces import Pieces

EAGER, PIECES = "eager", "piecewise"
#: Everything that is timed by default; ``again`` is stock a second time, and shows the noise.
STOCK, AGAIN = "stock", "stock again"
WAYS = (EAGER, STOCK, AGAIN, "traffic", "plan", PIECES)
#: How a variant of `plan` that `tune` would time begins; the rest of a way's name is its own.
_VARIANT = "plan, "


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
    """The policy that compiles a way; "" for eager."""
    if way in (STOCK, AGAIN, PIECES):
        return STOCK
    return "" if way == EAGER else way.partition(",")[0]


def is_predicted(way: str) -> bool:
    """Whether a dry run can tell what a way moves."""
    return way not in (AGAIN, PIECES) and policy_of(way).partition(":")[0] in PREDICTED


@contextlib.contextmanager
def going(way: str) -> Iterator[None]:
    """Inside the block `plan` is planned as the variant that ``way`` names, if it names one."""
    if not way.startswith(_VARIANT):
        yield
        return
    usual = planned.limits_for

    def limits_for(device: Device | None) -> Limits:
        known = variants(usual(device), parse("plan"))
        if way not in known:
            raise LookupError(f"no variant {way!r} here; there are {', '.join(known)}")
        return known[way][0]

    with (
        mock.patch.object(planned, "limits_for", limits_for),
        mock.patch.object(dry_run, "limits_for", limits_for),
    ):
        yield


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
        with alone(part), going(way), config.patch(force_disable_caches=True):
            step()  # compiles; what is tuned is tuned here
    return step


def _loss(result: torch.Tensor) -> torch.Tensor:
    return result.to(torch.promote_types(result.dtype, torch.float32)).pow(2).mean()
