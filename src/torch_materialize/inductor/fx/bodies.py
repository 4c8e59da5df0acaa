"""The bodies of higher-order operators: subgraphs that Inductor lowers as graphs of their own.

``invoke_subgraph`` (``torch.compiler.nested_compile_region``), ``cond`` and ``while_loop`` call a
module of the graph that they stand in.  Inductor lowers such a body once, however often it is
called, and the graph around it sees one opaque call.  The small functions of ``flex_attention``
and the like are no bodies: they become part of a kernel of the graph around them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch.fx import GraphModule, Node

from .post_grad import PostGrad

__all__ = ["Body", "bodies", "body_of", "with_bodies"]

# Operators whose modules Inductor lowers as graphs of their own; `switch` is of torch 2.15.
_CALLERS = ("invoke_subgraph", "cond", "switch", "while_loop", "while_loop_stack_output")


@dataclass(frozen=True)
class Body:
    """One body of a graph.

    Attributes:
        name: the attribute of the graph's module that it is.
        caller: the operator that calls it.
        calls: how many nodes of the graph call it.  One that runs as often as the data say (a
            branch of ``cond``, a step of ``while_loop``) counts as called once by each.
        module: the body itself.
    """

    name: str
    caller: str
    calls: int
    module: GraphModule


def bodies(module: GraphModule) -> Iterator[Body]:
    """The bodies that ``module`` itself calls, in the order of their first calls."""
    calls: Counter[str] = Counter()
    callers: dict[str, str] = {}
    for node in module.graph.find_nodes(op="get_attr"):
        name = str(node.target)
        if not isinstance(getattr(module, name, None), GraphModule):
            continue
        for user in node.users:
            caller = _caller(user)
            if caller:
                calls[name] += 1
                callers.setdefault(name, caller)
    for name, caller in callers.items():
        yield Body(name, caller, calls[name], getattr(module, name))


def body_of(module: GraphModule, body: GraphModule) -> Body | None:
    """What ``body`` is in ``module``; None where ``module`` does not call it."""
    return next((one for one in bodies(module) if one.module is body), None)


def with_bodies(graph: PostGrad) -> Iterator[PostGrad]:
    """``graph``, then its bodies as graphs, and theirs; each once."""
    yield graph
    for body in bodies(graph.module):
        inputs = tuple(x.meta.get("val") for x in body.module.graph.find_nodes(op="placeholder"))
        if any(node.op == "call_function" for node in body.module.graph.nodes):
            yield from with_bodies(
                replace(
                    graph,
                    module=body.module,
                    inputs=inputs,
                    caller=body.caller,
                    calls=graph.calls * body.calls,
                )
            )


def _caller(node: Node) -> str:
    """The operator that a node calls bodies with, "" where it calls none."""
    target = node.target
    if target is torch.ops.higher_order.with_effects:
        target = next((x for x in node.args if isinstance(x, torch._ops.HigherOrderOperator)), "")
    name = target.name() if isinstance(target, torch._ops.HigherOrderOperator) else ""
    return name if name in _CALLERS else ""
