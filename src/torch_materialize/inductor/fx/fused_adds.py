"""Additions that upstream put into a matmul, which adds before it rounds.

Inductor makes ``addmm`` of ``a @ b + c``.  Eager rounds the product to bf16 and then adds; the
one kernel adds to the product in fp32.  Where a program wrote ``addmm`` itself, as a linear layer
with a bias does, eager runs the same kernel.
"""

from __future__ import annotations

import torch

from .program_order import has_place

__all__ = ["take_adds_apart"]

_ADDMM = torch.ops.aten.addmm.default
_MM = torch.ops.aten.mm.default
_ADD = torch.ops.aten.add.Tensor


def take_adds_apart(graph: torch.fx.Graph) -> int:
    """Makes each ``addmm`` that a pass of upstream's made a matmul and an addition; how many.

    Such a node has no place in the program (:mod:`.program_order`); in a graph whose order was
    not noted nothing is known of where nodes come from, and nothing is done.
    """
    made = [node for node in graph.find_nodes(op="call_function", target=_ADDMM) if _is_made(node)]
    if not made or not any(has_place(node) for node in graph.nodes):
        return 0
    for node in made:
        added, left, right = node.args
        with graph.inserting_before(node):
            product = graph.call_function(_MM, (left, right))
            total = graph.call_function(_ADD, (product, added))
        total.meta = dict(node.meta)
        product.meta = {**node.meta, "val": _product(left, right)}
        product.meta.pop("tensor_meta", None)
        node.replace_all_uses_with(total)
        graph.erase_node(node)
    return len(made)


def _is_made(node: torch.fx.Node) -> bool:
    return not has_place(node) and len(node.args) == 3 and not node.kwargs


def _product(left: torch.fx.Node, right: torch.fx.Node) -> torch.Tensor:
    mode = left.meta["val"].fake_mode
    with mode:
        product: torch.Tensor = _MM(left.meta["val"], right.meta["val"])
    return product
