"""Narrowing casts that are held until the plan has seen them, on torch 2.11 and 2.12.

There the joint-graph pass ``pointless_convert`` folds fp32 -> bf16 -> fp32 away before
lowering.  The narrow tensor in the middle (vLLM's bf16 residual) is exactly the one worth
materializing.  From 2.13 on upstream keeps it; then nothing here is used.

Such a cast is hidden behind an identity operator of ours while upstream's pass runs
(:mod:`torch_materialize.inductor.hooks.cast_passes`), and then stands in the graph with a mark.
Whatever the plan does not use is folded as upstream would have, so that without a plan the graph
is stock's.
"""

from __future__ import annotations

import functools
from collections.abc import Set
from dataclasses import replace
from typing import Any

import torch

from ..contract import seams
from .operators import identity
from .post_grad import PostGrad, copy_graph

__all__ = [
    "fold",
    "folded",
    "folds_narrow_casts",
    "held_names",
    "hide",
    "hold",
    "is_cast",
    "release",
]

_HELD = "torch_materialize_held_cast"
_CAST = torch.ops.prims.convert_element_type.default
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Digests of the pointless_convert that folds narrowing casts, too.
_FOLDING = frozenset({"eccba58e28deacd0"})


@functools.cache
def folds_narrow_casts() -> bool:
    """Whether the installed joint-graph pass folds a cast that narrows and then widens."""
    seam = seams.by_path("torch._inductor.fx_passes.joint_graph:pointless_convert")
    return seam.digest() in _FOLDING


def _hiding() -> Any:
    """The identity operator that hides a cast from upstream's pattern."""
    return identity("hold")


def hide(graph: torch.fx.Graph) -> None:
    """Puts our identity between each narrowing cast and the casts that widen it again."""
    for node in graph.find_nodes(op="call_function", target=_CAST):
        wider = [user for user in node.users if _widens(node, user)]
        if wider and _narrows(node):
            with graph.inserting_after(node):
                hidden = graph.call_function(_hiding(), (node,))
            hidden.meta = dict(node.meta)
            for user in wider:
                user.replace_input_with(node, hidden)


def release(graph: torch.fx.Graph, *, held: bool) -> None:
    """Takes the identities out; the casts that widen again are marked as ``held`` or not."""
    for hidden in graph.find_nodes(op="call_function", target=_hiding()):
        for user in hidden.users:
            user.meta[_HELD] = held
        hidden.replace_all_uses_with(hidden.args[0])
        graph.erase_node(hidden)


def _held_casts(graph: torch.fx.Graph) -> dict[torch.fx.Node, torch.fx.Node]:
    """Widening cast -> the narrowing cast before it, for the pairs that were held."""
    return {
        node: node.all_input_nodes[0]
        for node in graph.find_nodes(op="call_function", target=_CAST)
        if node.meta.get(_HELD) and node.all_input_nodes[0].target is _CAST
    }


def hold(module: torch.fx.GraphModule, names: Set[str]) -> None:
    """Holds the pairs again whose narrowing cast is named: what :func:`held_names` gave before."""
    for node in module.graph.find_nodes(op="call_function", target=_CAST):
        if node.all_input_nodes[0].name in names:
            node.meta[_HELD] = True


def held_names(graph: PostGrad) -> frozenset[str]:
    """Names of the narrowing casts that are held back."""
    return frozenset(node.name for node in _held_casts(graph.module.graph).values())


def fold(module: torch.fx.GraphModule, keep: frozenset[str] = frozenset()) -> None:
    """Folds the held pairs, in place, except where the narrow value is named in ``keep``."""
    graph = module.graph
    release(graph, held=True)  # what is still hidden where a pass of ours failed
    for widening, narrowing in _held_casts(graph).items():
        if narrowing.name in keep:
            continue
        source = narrowing.all_input_nodes[0]
        if source.meta["val"].dtype == widening.meta["val"].dtype:
            widening.replace_all_uses_with(source)
            graph.erase_node(widening)
        else:
            widening.replace_input_with(narrowing, source)
        if not narrowing.users:
            graph.erase_node(narrowing)
    module.recompile()


def folded(graph: PostGrad, keep: frozenset[str] = frozenset()) -> PostGrad:
    """A copy with the held pairs folded except those in ``keep``; the graph itself if none is.

    With nothing kept it is what stock would lower.
    """
    if not _held_casts(graph.module.graph):
        return graph
    module = copy_graph(graph.module)
    fold(module, keep)
    return replace(graph, module=module)


def _narrows(node: torch.fx.Node) -> bool:
    source, result = node.all_input_nodes[0].meta.get("val"), node.meta.get("val")
    return _floats(source, result) and result.dtype.itemsize < source.dtype.itemsize


def _widens(node: torch.fx.Node, user: torch.fx.Node) -> bool:
    if user.target is not _CAST:
        return False
    source, result = node.meta.get("val"), user.meta.get("val")
    return _floats(source, result) and result.dtype.itemsize > source.dtype.itemsize


def _floats(*values: Any) -> bool:
    return all(isinstance(v, torch.Tensor) and v.dtype in _FLOATS for v in values)


def is_cast(node: torch.fx.Node) -> bool:
    """Whether a node gives a tensor another dtype."""
    return node.target is _CAST
