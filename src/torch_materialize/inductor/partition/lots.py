"""What could be recomputed instead of saved, in groups of what is alike in repeated layers."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from ...core.knapsack import Lot
from .cut import cut
from .foresee import Foresight
from .joint import Joint

__all__ = ["Group", "described", "groups"]

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Group:
    """Storages that stock saves and that are alike: one in each layer, say.

    Attributes:
        roots: the nodes that make them (:meth:`.Joint.root`), in the graph's order.
        lot: what not saving one of them frees and costs, in the mean; bytes.
    """

    roots: tuple[Node, ...]
    lot: Lot


def groups(joint: Joint, foresight: Foresight, *, unfused: bool = True) -> list[Group]:
    """The groups that can be recomputed at all, and what each is foreseen to cost.

    ``unfused``: matmuls and attention may run again, too.
    """
    found: defaultdict[Any, list[Node]] = defaultdict(list)
    for root in dict.fromkeys(joint.root(node) for node in joint.saved):
        if root.op == "placeholder" or root in joint.inlined:
            continue
        if joint.may_recompute(root) or (unfused and joint.may_run_again(root)):
            found[described(root)].append(root)
    bytes_before = joint.saved_bytes(foresight.base.saved)
    result = []
    for roots in found.values():
        without = cut(joint, roots)
        if without is None:
            continue
        room = (bytes_before - joint.saved_bytes(without.saved)) / len(roots)
        price = foresight.more(without) / len(roots)
        if price != float("inf") and (room > 0 or price < 0):
            result.append(Group(tuple(roots), Lot(len(roots), room, price)))
    return result


def described(node: Node) -> Any:
    """What a node has in common with its counterparts in other layers, narrower or wider."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    module = _NUMBER.sub("*", str(stack[-1][0])) if stack else ""
    line = (node.meta.get("stack_trace") or "").strip().rpartition("File ")[2]
    value = node.meta.get("val")
    values = value if isinstance(value, list | tuple) else [value]
    dtypes = tuple(str(getattr(x, "dtype", "")) for x in values)
    users = tuple(sorted(str(user.target) for user in node.users))
    return str(node.target), dtypes, module, line, () if stack else users
