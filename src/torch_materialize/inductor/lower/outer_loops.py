"""Keeps the C++ backend from fusing outer loops for which it cannot generate code.

It fuses loops over the same rows into one outer loop, and gives a buffer that lives within it a
local one.  To see whether it may, it looks up where each user of the buffer reads it; a user that
only waits for the buffer (it writes into one that was read before, say) reads it nowhere, and code
generation ends in a KeyError (`codegen_outer_loop_node`, torch 2.11 to 2.15).  Stock meets that
seldom, since few such buffers are written; a plan or the local rule may write them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch._inductor.codegen.cpp import OuterLoopFusedSchedulerNode
from torch._inductor.graph import GraphLowering
from torch._inductor.loop_body import MemoryUsageType

__all__ = ["keep_outer_loops_apart"]


def keep_outer_loops_apart(lowering: GraphLowering) -> None:
    """Sees to it that this one lowering is scheduled without such fusions."""
    upstream = lowering._update_scheduler

    def _update_scheduler() -> None:
        upstream()
        _keep_apart(lowering.scheduler)

    # On the object and not on its class: no other graph ever sees it.
    setattr(lowering, "_update_scheduler", _update_scheduler)  # noqa: B010 - mypy: a method


def _keep_apart(scheduler: Any) -> None:
    """Has the loops of such a kernel generated one by one, as upstream does where they do not fit.

    Nothing that refers to the kernel changes: on the object itself the depth at which buffers
    become local is one that no loop has, and its loops are said not to fit.
    """
    for node in scheduler.nodes:
        if _is_unsafe(node):
            node.outer_loop_fusion_depth = -1
            node.check_outer_fusion_loop_level_attr = lambda *_args: False


def _is_unsafe(node: Any) -> bool:
    if not isinstance(node, OuterLoopFusedSchedulerNode):
        return False
    return any(user not in readers for user, readers in _users_within(node))


def _users_within(node: Any) -> Iterator[tuple[Any, set[Any]]]:
    """The users of each buffer that is used in this kernel only, and those that read it."""
    members = node.get_nodes()
    for member in members:
        if member.is_reduction() or len(member.get_outputs()) != 1:
            continue
        (buffer,) = member.get_outputs()
        users = [user.node for user in buffer.users]
        if all(user in members for user in users):
            # As the loop calls what it loads: its dependencies name a later version of a buffer.
            readers = {m for m in users if buffer.get_name() in _loaded(m)}
            yield from ((user, readers) for user in users)


def _loaded(member: Any) -> set[str]:
    return {entry.buffer_name for entry in member._body.memory_usage[MemoryUsageType.LOAD]}
