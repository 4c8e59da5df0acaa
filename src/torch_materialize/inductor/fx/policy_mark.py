"""The policy that a graph carries through a compile, in the meta of its module."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from torch._inductor.virtualized import V

from ...core.policy import Policy

__all__ = ["POLICY_KEY", "governing_policy", "local_rule_compared", "written_by_local_rule"]

#: Key in ``GraphModule.meta`` under which our graph pass leaves the graph's policy.
POLICY_KEY = "torch_materialize_policy"

# What the local rule would write and stock does not; None: nobody compares the two.
_written: ContextVar[set[str] | None] = ContextVar("torch_materialize_by_local_rule", default=None)


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
def local_rule_compared() -> Iterator[set[str]]:
    """Inside the block a graph without a policy is also put to the local rule (``traffic``).

    Collects the nodes that it would write where stock does not.
    """
    found: set[str] = set()
    token = _written.set(found)
    try:
        yield found
    finally:
        _written.reset(token)


def written_by_local_rule() -> set[str] | None:
    """Where to note what the local rule would write; None: nobody compares."""
    return _written.get()
