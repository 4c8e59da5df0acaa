"""The policy that a graph carries through a compile, in the meta of its module."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from torch._inductor.virtualized import V

from ...core.policy import Policy

__all__ = ["POLICY_KEY", "governing_policy", "local_rule_compared", "otherwise_by_local_rule"]

#: Key in ``GraphModule.meta`` under which our graph pass leaves the graph's policy.
POLICY_KEY = "torch_materialize_policy"

# Reused tensors that the local rule decides otherwise than stock; None: nobody compares them.
_otherwise: ContextVar[list[str] | None] = ContextVar("torch_materialize_otherwise", default=None)


def governing_policy() -> Policy | None:
    """The policy of the graph that is being lowered, None where it is stock's.

    A subgraph of a higher-order operator is governed by the graph that calls it.
    """
    graph = V.graph
    while graph is not None:
        policy = getattr(graph.module, "meta", {}).get(POLICY_KEY)
        if policy is not None:
            return policy
        graph = getattr(graph, "parent", None) or getattr(graph, "root_graph", None)
    return None


@contextlib.contextmanager
def local_rule_compared() -> Iterator[list[str]]:
    """Inside the block a graph without a policy is also put to the local rule (``traffic``).

    Collects what it would decide otherwise than stock.  Where that is nothing, its lowering would
    be stock's: each decision follows from the ones before, and the first is the same.
    """
    found: list[str] = []
    token = _otherwise.set(found)
    try:
        yield found
    finally:
        _otherwise.reset(token)


def otherwise_by_local_rule() -> list[str] | None:
    """Where to note what the local rule decides otherwise; None: nobody compares."""
    return _otherwise.get()
