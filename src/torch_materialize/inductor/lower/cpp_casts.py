"""Lets the C++ backend of torch 2.11 and 2.12 round at each cast.

There ``CppOverrides.to_dtype`` remembers what it narrowed, and the value before that is taken
for what is widened again: no cast from fp32 to bf16 and back rounds anything, not even those of
``emulate_precision_casts`` (pytorch issue 185337; fixed in 2.13).  No setting turns that off, so
while the code of one of our graphs is generated, nothing is remembered for it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch._inductor.codegen.cpp import CppKernel
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V

from ..contract import seams

__all__ = ["keep_casts"]

# Digests of the to_dtype that forgets casts.
_FORGETTING = frozenset({"d5f6c9c499b39c1f"})
_CASTS_COUNT = "_torch_materialize_casts_count"
_lock = threading.Lock()
_users = 0
_upstream = CppKernel.cache_dtype_convert


def keep_casts(lowering: GraphLowering) -> None:
    """Makes the C++ code of this one graph round at its casts, where upstream's would not."""
    if not _forgets():
        return
    setattr(lowering, _CASTS_COUNT, True)
    for name in ("codegen", "codegen_with_cpp_wrapper"):
        # On the object and not on its class: no other graph ever sees it.
        setattr(lowering, name, _rounding(getattr(lowering, name)))


@functools.cache
def _forgets() -> bool:
    return (
        seams.by_path("torch._inductor.codegen.cpp:CppOverrides.to_dtype").digest() in _FORGETTING
    )


def _rounding(generate: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(generate)
    def codegen(*args: Any, **kwargs: Any) -> Any:
        with _remembering_nothing():
            return generate(*args, **kwargs)

    return codegen


@contextmanager
def _remembering_nothing() -> Iterator[None]:
    """Inside the block ours stands in upstream's place; other threads' graphs pass through."""
    global _users  # noqa: PLW0603 - one count of one process
    with _lock:
        _users += 1
        CppKernel.cache_dtype_convert = _cache_dtype_convert
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                CppKernel.cache_dtype_convert = _upstream


def _cache_dtype_convert(self: CppKernel, *args: Any, **kwargs: Any) -> None:
    if not getattr(V.graph, _CASTS_COUNT, False):
        _upstream(self, *args, **kwargs)
