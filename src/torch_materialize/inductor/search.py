"""Plan, try, learn, plan again: the search for what to materialize in one graph.

The integer program plans on the kernels of a dry run; a second dry run tells what Inductor
makes of the plan.  What it materializes unasked and what it does not fuse as planned is
learned, and the next round plans on the new kernels.  The best *measured* result wins, and
stock unless something is strictly better.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils import _pytree as pytree

from ..core.dag import Dag, peak_bytes
from ..core.graph import Graph
from ..core.planner import Limits, misplaced, plan
from ..core.traffic import traffic
from .narrow import folded
from .trial import PostGrad, trial

__all__ = ["Found", "search"]


@dataclass(frozen=True)
class Found:
    """The outcome of one search.

    Attributes:
        store: FX nodes to materialize, everything else inlined; None: leave it to stock.
        graph: the kernels of the outcome, from a dry run.
        stock: the kernels of stock.
        bound: certified lower bound in bytes, with the outcome's kernels, their order and
            their required outputs held fixed; None where it was not asked for.
        seconds: wall time of the search.
        rounds: dry runs made.
    """

    store: frozenset[str] | None
    graph: Graph
    stock: Graph
    bound: float | None
    seconds: float
    rounds: int


@dataclass(frozen=True)
class _State:
    store: frozenset[str] | None
    graph: Graph
    dag: Dag


def out_of_reach(module: torch.fx.GraphModule) -> str:
    """Why a graph is left to stock, "" where it can be planned."""
    if any(isinstance(child, torch.fx.GraphModule) for child in module.children()):
        return "it has subgraphs, whose kernels a plan does not see"
    for node in module.graph.nodes:
        for value in pytree.tree_leaves(node.meta.get("val")):
            sized = isinstance(value, torch.Tensor | torch.SymInt)
            if sized and free_unbacked_symbols(value):
                return f"{node.name} has an unbacked size, so its bytes are unknown"
    return ""


def search(graph: PostGrad, limits: Limits, *, certify: bool = True) -> Found:
    """Looks for a choice that moves fewer bytes than stock within ``limits``.

    One plan is always tried; more as time allows.  ``certify`` asks for the lower bound,
    which may take one more solve.
    """
    started = time.monotonic()
    # Where casts were held back (torch 2.11 and 2.12), stock lowers another graph.
    stock_graph = folded(graph)
    stock = best = _State(None, *trial(stock_graph, None))
    if out_of_reach(graph.module):
        seconds = time.monotonic() - started
        return Found(None, stock.graph, stock.graph, None, seconds, 1)
    current = stock if stock_graph is graph else _State(None, *trial(graph, None))
    start = current
    bound: float | None = None
    forced: frozenset[str] = frozenset()
    banned: set[tuple[int, int]] = set()
    tried: set[frozenset[str]] = set()
    for number in range(limits.rounds):
        if number and time.monotonic() - started > limits.seconds:
            break
        planned = plan(current.dag, limits, banned)
        if current is best and not banned:
            bound = planned.bound
        store = current.dag.nodes(planned.store)
        if store in tried:
            break
        tried.add(store)
        after = _State(store, *trial(folded(graph, store), store, forced))
        forced |= after.dag.nodes(after.dag.chosen()) - store
        after = _State(store, after.graph, after.dag.with_forced(forced))
        if _better(after, best, stock, limits):
            best, bound = after, None
        if after.dag.measured < current.dag.measured:
            current, banned = after, set()
            continue
        wrong = misplaced(current.dag, planned.homes, _Together(current.dag, after.dag))
        if wrong <= banned:
            break
        banned |= wrong
    if certify and bound is None:
        bound = plan((start if best is stock else best).dag, limits).bound
    seconds = time.monotonic() - started
    return Found(best.store, best.graph, stock.graph, bound, seconds, len(tried) + 1)


def _better(new: _State, best: _State, stock: _State, limits: Limits) -> bool:
    """Strictly fewer bytes, launches worth their bytes, and no higher peak than allowed."""
    ours, theirs = traffic(new.graph), traffic(best.graph)
    launches = max(ours.kernels - traffic(stock.graph).kernels, 0)
    saved = theirs.bytes - ours.bytes
    if saved <= 0 or traffic(stock.graph).bytes - ours.bytes < launches * limits.launch_bytes:
        return False
    peak = peak_bytes(new.dag, new.dag.homes())
    allowed = peak_bytes(stock.dag, stock.dag.homes()) * (1 + limits.peak_share)
    return peak <= allowed


class _Together:
    """Whether a dry run computed in one kernel what an earlier one knew by other indices."""

    def __init__(self, old: Dag, new: Dag) -> None:
        self._names = [value.node for value in old.values]
        homes = new.homes()
        self._kernel = {new.values[i].node: k for i, k in homes.items() if new.values[i].node}

    def __call__(self, a: int, b: int) -> bool | None:
        one, other = (self._kernel.get(self._names[i]) for i in (a, b))
        return None if one is None or other is None else one == other
