"""A plan -> Inductor, in both directions and without a monkeypatch.

To materialize, Inductor offers ``node.meta["inductor_realize_to_strides"]``, which also fixes the
strides to those of eager: behind a convolution and a transposition the whole residual stream of a
vision tower would be laid out by channels, with its norms along the long way.  So nodes carry a
mark of ours, and the one lowering that they are for realizes them as it realizes on its own, in a
layout that is still to be chosen.  To inline there is no mark, but the rules that materialize by
counting are plain settings: with those out of reach for one lowering, what is not marked stays
inlined, except where Inductor must have a buffer (inputs of matmuls, outputs, very large bodies).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from torch._inductor import config, ir
from torch._inductor.graph import GraphLowering

from ..fx.decision import Decision
from ..fx.marks import REALIZE_KEY
from .settings import patched
from .switched import switched

__all__ = ["as_stock", "choosing", "realizing", "undecided"]

_NEVER = 1 << 20
# Those of a later torch than ours are skipped; has_large_inner_fn(threshold=100), which
# guards against deep recursion, is no setting and stays.
_COUNTING_RULES = {
    "realize_reads_threshold": _NEVER,
    "realize_acc_reads_threshold": _NEVER,
    "realize_cpu_acc_reads_threshold": _NEVER,
    "realize_opusers_threshold": _NEVER,
    "realize_acc_reads_size_threshold": None,
    "realize_opcount_threshold": 100,
}


# What the counting rules were before they were put out of reach in this context.
_before: ContextVar[Mapping[str, Any] | None] = ContextVar("torch_materialize_rules", default=None)


@contextlib.contextmanager
def undecided() -> Iterator[None]:
    """Inside the block Inductor materializes nothing because of a count."""
    rules = {k: v for k, v in _COUNTING_RULES.items() if hasattr(config, k)}
    token = _before.set(_before.get() or {k: getattr(config, k) for k in rules})
    try:
        with patched(rules):
            yield
    finally:
        _before.reset(token)


@contextlib.contextmanager
def as_stock() -> Iterator[None]:
    """Inside the block, within :func:`undecided`, the counting rules are the user's again."""
    with patched(dict(_before.get() or {})):
        yield


@contextlib.contextmanager
def realizing(lowering: GraphLowering) -> Iterator[None]:
    """Inside the block this lowering materializes every node with a mark."""
    nodes = lowering.module.graph.nodes
    if "call_function" in vars(lowering) or not any(REALIZE_KEY in node.meta for node in nodes):
        yield
        return
    upstream = lowering.call_function

    def call_function(*args: Any, **kwargs: Any) -> Any:
        result = upstream(*args, **kwargs)
        if REALIZE_KEY in lowering.current_node.meta and isinstance(result, ir.TensorBox):
            result.realize()
        return result

    lowering.call_function = call_function
    try:
        yield
    finally:
        del lowering.call_function


@contextlib.contextmanager
def choosing(decision: Decision) -> Iterator[None]:
    """Inside the block Inductor materializes what is marked, and chooses itself without a plan.

    What the decision switches on is on.
    """
    plan = contextlib.nullcontext() if decision.store is None else undecided()
    with plan, switched(decision.settings):
        yield
