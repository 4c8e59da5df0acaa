"""Ranges of a Dynamo graph as graphs of their own: pieces, prefixes and suffixes.

A range is a run of operators in program order.  What it reads of earlier ones are its inputs, and
what later ones read of it are its outputs.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

__all__ = ["Part", "cut_places", "operators", "part", "places", "target_name"]

# Namespaces of operators that Inductor knows; all others are custom operators.
_TRANSPARENT = ("aten", "prims", "torch_materialize")
_ATTENTION = ("attention",)
_MATMULS = ("linear", "matmul", "mm", "addmm", "bmm", "baddbmm", "einsum", "conv")


@dataclass(frozen=True)
class Part:
    """A range of a graph.

    Attributes:
        module: the range as a module: tensors in, a tuple of tensors out.
        inputs, outputs: names that these have in the whole graph.
    """

    module: fx.GraphModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def operators(module: fx.GraphModule) -> list[fx.Node]:
    """What a range is a range of: every node but inputs and output, in program order."""
    return [n for n in module.graph.nodes if n.op not in ("placeholder", "output")]


def places(module: fx.GraphModule) -> list[int]:
    """Where the graph may be cut: before which operators, its end included.

    Only tensors may cross, and no block of the program (autocast, ``no_grad``) may be open.
    """
    nodes = operators(module)
    index = {node: i for i, node in enumerate(nodes)}
    last = {
        node: max((index.get(user, math.inf) for user in node.users), default=i)
        for node, i in index.items()
    }
    odd = [(i, last[node]) for node, i in index.items() if not _is_tensor(node)]
    found = []
    grad = start = torch.is_grad_enabled()
    for place in range(1, len(nodes)):
        before = nodes[place - 1]
        if before.target is torch._C._set_grad_enabled:
            grad = bool(before.args[0])
        if grad == start and not any(i < place <= end for i, end in odd):
            found.append(place)
    return [*found, len(nodes)] if nodes else []


def part(module: fx.GraphModule, start: int, stop: int) -> Part:
    """The operators from ``start`` to ``stop``, both between 0 and their number."""
    nodes = operators(module)[start:stop]
    inside = set(nodes)
    result = next(iter(module.graph.find_nodes(op="output")))
    is_last = stop >= len(operators(module))
    inputs = dict.fromkeys(x for n in nodes for x in n.all_input_nodes if x not in inside)
    if is_last:
        outputs = dict.fromkeys(x for x in result.all_input_nodes if x in inside)
    else:
        outputs = dict.fromkeys(n for n in nodes if any(u not in inside for u in n.users))
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in inputs:
        copies[node] = graph.placeholder(node.name)
        copies[node].meta = dict(node.meta)
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in outputs))
    made = fx.GraphModule(module, graph)
    return Part(made, tuple(n.name for n in inputs), tuple(n.name for n in outputs))


def cut_places(module: fx.GraphModule, how: str) -> list[tuple[int, int, bool]]:
    """The ranges into which a graph is cut, and whether each is compiled.

    What stands alone is run as eager runs it, as in vLLM.
    """
    nodes, allowed = operators(module), places(module)
    if how == "layers":
        wanted = {
            i for i, (a, b) in enumerate(itertools.pairwise(nodes), 1) if _layer(a) != _layer(b)
        }
        ends = sorted({p for p in allowed if p in wanted} | {len(nodes)})
        return [(a, b, True) for a, b in zip([0, *ends], ends, strict=False)]
    alone = {i for i, node in enumerate(nodes) if _stands_alone(node, how)}
    found: list[tuple[int, int, bool]] = []
    begin = 0
    for i in sorted(alone):
        if (i and i not in allowed) or i + 1 not in allowed or i < begin:
            continue  # it is inside of a block that cannot be cut
        if i > begin:
            found.append((begin, i, True))
        found.append((i, i + 1, False))
        begin = i + 1
    if begin < len(nodes):
        found.append((begin, len(nodes), True))
    return found


def target_name(node: fx.Node) -> str:
    """An operator as the program calls it."""
    if isinstance(node.target, str):
        return node.target
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target)
    return str(getattr(node.target, "__name__", node.target))


def _is_tensor(node: fx.Node) -> bool:
    value: Any = node.meta.get("example_value", node.meta.get("val"))
    if isinstance(value, torch.Tensor):
        return True
    # A call for its effect alone gives nothing that could cross.
    return value is None and not node.users


def _stands_alone(node: fx.Node, how: str) -> bool:
    if node.op not in ("call_function", "call_method"):
        return False
    name = target_name(node)
    is_operator = isinstance(node.target, torch._ops.OpOverload | torch._ops.OpOverloadPacket)
    if is_operator and name.partition(".")[0] not in _TRANSPARENT:
        return True
    words = _ATTENTION if how == "attention" else (*_ATTENTION, *_MATMULS)
    return any(
        word in name if word in ("attention", "conv") else word == name.strip("_") for word in words
    )


def _layer(node: fx.Node) -> str:
    """The repeated layer that a node belongs to: the shortest module path that ends in a number."""
    for path, _ in (node.meta.get("nn_module_stack") or {}).values():
        head, _, end = path.rpartition(".")
        number = end if head else path.rpartition("[")[2].strip("]")
        if number.isdigit():
            return str(path)
    return ""
