"""Keeps one compiled graph out of Inductor's caches, though its key names a policy.

A graph that was to be planned and then was left to stock, since something went wrong or an
emergency limit was reached, must not be served later under the policy's key.  Inductor
checks whether a graph can be cached before it lowers it, and never again; so the two calls that
save are wrapped, from the first graph that is concerned and until the process ends, and pass
every other graph on.

What a program keeps itself (``standalone_compile``, ``save_cache_artifacts``: vLLM) holds the
graph as it is: a program that needs it fails without it.
"""

from __future__ import annotations

import functools
import inspect
import logging
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from torch._inductor.codecache import FxGraphCache
from torch._inductor.graph import GraphLowering

from ...events import once
from ..contract import seams

__all__ = ["is_uncached", "uncached"]

_SAVE = "torch._inductor.codecache:FxGraphCache._save_graph"
_SAVE_AOT = "torch._functorch._aot_autograd.autograd_cache:AOTAutogradCache.save"
_WRITE_AOT = "torch._functorch._aot_autograd.autograd_cache:AOTAutogradCache._write_to_local_cache"
# The attribute that a lowering hands on to what is compiled from it, as the same object.
_CARRIER = "torchbind_constants"

_lock = threading.Lock()
_wrapped: list[str] = []
# Whether the entry that is saved in this context is not to be written.
_unwritten: ContextVar[bool] = ContextVar("torch_materialize_unwritten", default=False)


class _Marked(dict[str, Any]):
    """A lowering's dictionary that says that what is compiled from it is not to be cached."""

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)  # who loads it needs nothing of ours


def uncached(lowering: GraphLowering) -> None:
    """What is compiled from ``lowering`` enters no cache of Inductor's or AOTAutograd's.

    For any time between the making of a lowering and the end of its compile; twice is once.  Where
    this torch saves in another way than we know, the graph is cached, and that is logged.
    """
    if is_uncached(lowering):
        return
    mismatches = seams.check("uncached")
    if mismatches:
        once(
            "uncached",
            logging.WARNING,
            "a graph that was left to stock is cached under its policy's key: %s. Clear "
            "Inductor's cache folder to have it planned again.",
            mismatches[0],
        )
        return
    _wrap()
    setattr(lowering, _CARRIER, _Marked(getattr(lowering, _CARRIER)))


def is_uncached(compiled: Any) -> bool:
    """Whether a lowering, or the ``CompiledFxGraph`` made from it, is kept out of caches."""
    return isinstance(getattr(compiled, _CARRIER, None), _Marked)


def _wrap() -> None:
    with _lock:
        for path, wrap in ((_SAVE, _save_graph), (_SAVE_AOT, _save_aot), (_WRITE_AOT, _write_aot)):
            if path not in _wrapped:
                owner, name = seams.by_path(path).owner()
                ours = wrap(getattr(owner, name))
                setattr(ours, seams.OURS, path)
                setattr(owner, name, staticmethod(ours))
                _wrapped.append(path)


def _is_relied_on() -> bool:
    """Whether somebody else has decided that what is compiled now can be cached, and will read it.

    vLLM without ``standalone_compile`` does so, and does not start where its entry is missing.
    """
    return FxGraphCache._check_can_cache.__module__ != FxGraphCache.__module__


def _save_graph(upstream: Callable[..., None]) -> Callable[..., None]:
    signature = inspect.signature(upstream)

    @functools.wraps(upstream)
    def _save_graph(*args: Any, **kwargs: Any) -> None:
        bound = signature.bind(*args, **kwargs)
        if is_uncached(bound.arguments["compiled_graph"]) and not _is_relied_on():
            # What else upstream does, guards for one, is still needed.
            bound.arguments.update(local=False, remote_cache=None)
        upstream(*bound.args, **bound.kwargs)

    return _save_graph


def _save_aot(upstream: Callable[..., None]) -> Callable[..., None]:
    """Entries of AOTAutograd hold compiled graphs (``bundled_autograd_cache``) or their keys."""
    signature = inspect.signature(upstream)

    @functools.wraps(upstream)
    def save(*args: Any, **kwargs: Any) -> None:
        bound = signature.bind(*args, **kwargs)
        entry = bound.arguments["entry"]
        parts = (getattr(entry, "compiled_fw", None), getattr(entry, "compiled_bw", None))
        if any(is_uncached(getattr(part, "result", None)) for part in parts):
            bound.arguments["remote"] = False
            token = _unwritten.set(True)
            try:
                return upstream(*bound.args, **bound.kwargs)
            finally:
                _unwritten.reset(token)
        return upstream(*bound.args, **bound.kwargs)

    return save


def _write_aot(upstream: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(upstream)
    def _write_to_local_cache(*args: Any, **kwargs: Any) -> None:
        if not _unwritten.get():
            upstream(*args, **kwargs)

    return _write_to_local_cache
