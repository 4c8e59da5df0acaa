"""The policy that a graph carries through a compile, in the meta of its module."""

from __future__ import annotations

from torch._inductor.virtualized import V

from ...core.policy import Policy

__all__ = ["POLICY_KEY", "governing_policy"]

#: Key in ``GraphModule.meta`` under which our graph pass leaves the graph's policy.
POLICY_KEY = "torch_materialize_policy"


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
