"""Inductor's settings that a decision switches on for one graph."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable
from typing import Any

from torch._inductor import config
from torch._inductor.graph import GraphLowering

from .settings import patched

__all__ = ["is_off_by_default", "keep_switched", "switched"]


def is_off_by_default(name: str) -> bool:
    """Whether this torch has the setting, off by default, and nobody has switched it on."""
    entry = config._config.get(name)
    return entry is not None and entry.default is False and not getattr(config, name)


def switched(names: Iterable[str]) -> contextlib.AbstractContextManager[Any]:
    """Inside the block these settings are on."""
    return patched(dict.fromkeys(names, True))


def keep_switched(lowering: GraphLowering, names: frozenset[str]) -> None:
    """Has this one graph scheduled, and its code generated, with these settings on."""
    for method in ("_update_scheduler", "codegen", "codegen_with_cpp_wrapper") if names else ():
        # On the object and not on its class: no other graph ever sees it.
        setattr(lowering, method, _inside(getattr(lowering, method), names))


def _inside(upstream: Callable[..., Any], names: frozenset[str]) -> Callable[..., Any]:
    @functools.wraps(upstream)
    def call(*args: Any, **kwargs: Any) -> Any:
        with switched(names):
            return upstream(*args, **kwargs)

    return call
