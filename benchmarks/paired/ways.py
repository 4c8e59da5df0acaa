"""The ways in which one model is run: eager, under each policy, with upstream's own settings."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch._dynamo
from torch._dynamo import config as dynamo_config
from torch._inductor import config

import torch_materialize as tm
from torch_materialize.core.policy import PREDICTED

from .cases import Made
from .opaque import Opaque

EAGER = "eager"
#: Stock, and stock a second time, which shows the noise.
#: A way "stock, SETTING=VALUE" is stock with one of Inductor's own settings.
STOCK, AGAIN = "stock", "stock again"
# Versions of one function that Dynamo may keep: ways, by the times that a graph of theirs breaks.
_MOST_VERSIONS = 256


def beside_stock(ways: tuple[str, ...]) -> tuple[str, ...]:
    """``ways`` with what they are compared with: stock, and stock again for the noise."""
    return tuple(dict.fromkeys((STOCK, AGAIN, *ways)))


def steps(
    made: Made, ways: tuple[str, ...], part: str, *, keep_gradients: bool = False
) -> Iterator[tuple[str, Callable[[], Callable[[], Any]]]]:
    """Each way with what compiles it, which returns what runs one step.

    Eager has no fused kernels to time.  All ways stay compiled until this is called again.
    """
    torch._dynamo.reset()
    for way in ways:
        if way != EAGER or part != "fused":
            yield way, partial(_step, made, way, part, keep_gradients)


def policy_of(way: str) -> str:
    """The policy that compiles a way; "" for eager."""
    return "" if way == EAGER else STOCK if way == AGAIN else way.partition(",")[0]


def is_predicted(way: str) -> bool:
    """Whether a trial lowering says what a way moves."""
    return "," not in way and way != AGAIN and policy_of(way).partition(":")[0] in PREDICTED


def is_known(way: str) -> bool:
    """Whether this torch has the setting that a way names, if it names one."""
    _, comma, setting = way.partition(", ")
    return not comma or hasattr(config, setting.partition("=")[0])


def options(way: str) -> dict[str, Any]:
    """What ``torch.compile`` is called with.

    Raises:
        ValueError: the way names no setting and value.
    """
    policy, comma, setting = way.partition(", ")
    chosen = tm.options(policy_of(policy))
    if comma:
        name, value = setting.split("=")
        chosen[name] = {"True": True, "False": False}.get(value, value)
    # Dynamo takes what is compiled with equal options for the same; this one is not used.
    return {**chosen, "trace.debug_dir": way}


@contextlib.contextmanager
def alone(part: str) -> Iterator[None]:
    """Inside the block compiled graphs are as ``part`` wants them."""
    with config.patch(post_grad_custom_post_pass=Opaque() if part == "fused" else None):
        yield


def _step(made: Made, way: str, part: str, keep_gradients: bool) -> Callable[[], Any]:
    model = made.run
    if way != EAGER:
        with alone(part):
            model = torch.compile(model, options=options(way))

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
        with alone(part), _anew():
            step()  # compiles; what is tuned is tuned here
    return step


@contextlib.contextmanager
def _anew() -> Iterator[None]:
    """Inside the block nothing comes from a cache, and Dynamo fails where it would give up.

    Beyond its limit of compiled versions of one function it would run another of them, or none.
    """
    limit = dynamo_config.patch(recompile_limit=_MOST_VERSIONS, fail_on_recompile_limit_hit=True)
    with limit, config.patch(force_disable_caches=True):
        yield


def _loss(result: torch.Tensor) -> torch.Tensor:
    return result.to(torch.promote_types(result.dtype, torch.float32)).pow(2).mean()
