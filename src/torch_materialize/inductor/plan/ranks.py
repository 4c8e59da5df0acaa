"""One decision for one graph in all processes of a group.

The ranks of a tensor-parallel or data-parallel group compile the same graph, each by itself.  Where
they decide otherwise, they round values that should be equal otherwise.  A search gives the same
on each of them unless its emergency limit is reached; what `tune` measures differs every time.

So ranks agree through the store of the default process group: the first to have decided about a
graph publishes it, and every rank, the first included, takes what the store then holds.  *Nobody
waits for anybody*: a rank without the rest decides alone, and one that comes late finds the
decision and need not search.  A store that cannot do this changes nothing for a search; `tune`
then plans, which is the same everywhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ...core.policy import Policy
from ...events import log
from ...versions import implementation
from ..fx.decision import GIVEN_UP, Decision, names_of, of_names
from ..fx.own_arguments import ADDRESS, is_own, nameless
from ..fx.post_grad import PostGrad
from .process_group import Store, cannot_agree, has_ranks

__all__ = ["agreed", "graph_key"]

# Larger decisions are not published: the store is in one process's memory.  Those of a graph of
# ten thousand nodes take some kilobytes.
_LARGEST = 1 << 18
_DEVICE = re.compile(r"\b(cuda|xpu|hpu|mtia|privateuseone):\d+|(device\(type='\w+'), index=\d+\)")


def agreed(graph: PostGrad, policy: Policy, decide: Callable[[bool], Decision]) -> Decision:
    """The decision about ``graph`` that all ranks take; in a process alone, what ``decide`` says.

    ``decide`` is called at most once, and gets whether it may measure, which needs an agreement
    afterwards.
    """
    if not has_ranks():
        return decide(True)
    try:
        store, key = Store(), f"decision/{graph_key(graph, policy)}"
        published = store.look(key)
    except Exception as error:  # noqa: BLE001 - whatever a store is, a compile goes on
        cannot_agree(error)
        return decide(False)
    if published:
        theirs = _read(published, graph)
        if theirs is not None:
            log.info("%s: %s: as a rank of this group decided before", policy, graph.described)
            return theirs
    mine = decide(True)
    text = _written(mine)
    try:
        theirs = _read(store.publish(key, text), graph) if len(text) <= _LARGEST else None
    except Exception as error:  # noqa: BLE001 - whatever a store is, a compile goes on
        cannot_agree(error)
        theirs = None
    if theirs is None:
        # What was measured would be this rank's own.
        return decide(False) if policy.name == "tune" else mine
    if _written(theirs) == text:
        return mine
    log.info("%s: %s: another rank of this group decided first", policy, graph.described)
    return theirs


def graph_key(graph: PostGrad, policy: Policy) -> str:
    """A digest of a graph and a policy that is the same on every rank that compiles it.

    Left out is what a rank has for itself: the number of its device, names of process groups, and
    where its part of something begins (:mod:`..fx.own_arguments`); shapes and strides of all
    values are in it.  Inductor's settings are left out, too: ranks that differ in one should still
    round alike.
    """
    digest = hashlib.sha256()
    for part in (
        torch.__version__,
        policy.fingerprint(implementation()),
        f"{graph.is_inference} {graph.is_backward} {graph.cpp_wrapper} {graph.aot_mode}",
        *_lines(graph.module),
    ):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:40]


def _written(decision: Decision) -> str:
    what = {"given_up": decision is GIVEN_UP, "decision": names_of(decision)}
    return base64.b64encode(zlib.compress(json.dumps(what).encode())).decode()


def _read(text: str, graph: PostGrad) -> Decision | None:
    """A decision that was published; None if it is not one about this graph."""
    what = json.loads(zlib.decompress(base64.b64decode(text)))
    if what["given_up"]:
        return GIVEN_UP
    return of_names(what["decision"], graph.module)


def _lines(module: torch.fx.GraphModule) -> Iterator[str]:
    for node in module.graph.nodes:
        values = [
            (x.dtype, x.device.type, *_layout(x))
            for x in pytree.tree_leaves(node.meta.get("val"))
            if isinstance(x, torch.Tensor)
        ]
        yield _DEVICE.sub("", ADDRESS.sub("", f"{node.name} {_called(node)} {values}"))
        child = getattr(module, str(node.target), None) if node.op == "get_attr" else None
        if isinstance(child, torch.fx.GraphModule):
            yield from _lines(child)


def _layout(x: torch.Tensor) -> tuple[Any, ...]:
    strides = tuple(map(str, x.stride())) if x.layout is torch.strided else ()
    return (x.layout, tuple(map(str, x.shape)), strides)


def _called(node: torch.fx.Node) -> str:
    """Operator and arguments of a node, without what a rank may have for itself."""
    if not isinstance(node.target, torch._ops.OpOverload):
        name = getattr(node.target, "__qualname__", str(node.target))
        return f"{node.op} {name} {node.args} {node.kwargs}"
    shown = []
    schema = node.target._schema.arguments
    given = {**dict(zip((a.name for a in schema), node.args, strict=False)), **node.kwargs}
    for argument in schema:
        value = given.get(argument.name, argument.default_value)
        if argument.name in ("group_name", "device"):
            continue
        shown.append(str(pytree.tree_map(nameless, value) if is_own(argument) else value))
    return f"{node.target} {shown}"
