"""From trial lowerings of one graph to its :mod:`torch_materialize.results.explanation`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch.utils import _pytree as pytree

from ...core.cost import Rates, seconds_of
from ...core.dag import Dag, Kind, Value
from ...core.fits import FITS
from ...core.graph import Graph, Kernel
from ...core.memory import timeline
from ...core.policy import parse
from ...core.prices import Prices
from ...core.shares import saved_by
from ...core.story import Group, TensorChoice, rule_of
from ...results.explanation import Code, ExplainedGraph, Node, Side
from ..fx.casts import held_names
from ..fx.post_grad import PostGrad
from ..fx.rounding import is_narrow, rounds
from ..partition.kept import kept_by
from ..plan.outcome import Outcome
from ..read.module_of import module_of
from ..read.pin_nodes import KEEP, is_pin, readers, root_of, source_line

__all__ = ["explained", "kind_of"]

# How many tensors are named that are alive where most is.
_HELD = 8


def explained(
    graphs: Mapping[str, PostGrad],
    outcomes: Mapping[str, Outcome],
    priced: str,
    code: Mapping[str, Code] | None = None,
    left_out: int = 0,
    with_prices: bool = True,
    fitted: str = "",
) -> ExplainedGraph:
    """One graph under each policy.

    ``graphs`` and ``outcomes`` map a policy to the graph it was applied to (numerics may make
    that another) and to its trial lowering; ``priced`` names the policy whose choice is shown, and
    priced where that is wanted; ``code`` holds generated sources; ``left_out`` counts the
    nodes of repeated layers that the trial lowerings left out; ``fitted`` names the rates of the
    device (:attr:`.core.devices.Device.fitted`), without which there is no predicted time.
    """
    prices = {policy: Prices(one.dag) for policy, one in outcomes.items()}
    graph = graphs[priced]
    facts = _facts(graph, [one.dag for one in outcomes.values()])
    decisions = tuple(_decisions(graph, outcomes, priced, prices if with_prices else {}))
    found = outcomes[priced].found
    return ExplainedGraph(
        kind=kind_of(graph),
        nodes=graph.nodes,
        facts=facts,
        sides={
            policy: _side(one, prices[policy], (code or {}).get(policy), FITS.get(fitted))
            for policy, one in outcomes.items()
        },
        decisions=decisions,
        groups=tuple(_groups(decisions, facts, prices[priced], outcomes[priced].dag)),
        left_out=left_out,
        refused=found.refused if found is not None else (),
        unfused=found.unfused if found is not None else 0,
        saves=dict(_saves(outcomes, facts, graph.calls)),
        caller=graph.caller,
        calls=graph.calls,
        kept=kept_by(graphs),
        left_to_stock=outcomes[priced].left_to_stock,
    )


def _saves(
    outcomes: Mapping[str, Outcome], facts: Mapping[str, Node], calls: int
) -> Iterator[tuple[str, dict[str, int]]]:
    """What each decision of a policy saves against the first one's.

    Numerics may make a graph of other nodes: of one that the priced policy's does not have nothing
    is known, and its share belongs to what no decision explains.
    """
    (_, first), *others = outcomes.items()
    for policy, other in others:
        stored = first.graph.materialized(), other.graph.materialized()
        found = saved_by(first.dag, other.dag, (frozenset(stored[0]), frozenset(stored[1])))
        yield policy, {node: size * calls for node, size in found.items() if node in facts}


def kind_of(graph: PostGrad) -> str:
    """``inference``, ``forward`` or ``backward``."""
    return graph.kind


def _side(outcome: Outcome, prices: Prices, code: Code | None, rates: Rates | None) -> Side:
    dag = outcome.dag
    computed = {
        kernel.name: tuple(_names(dag, sorted(one.computes)))
        for kernel, one in zip(dag.kernels, prices.now, strict=True)
    }

    def seen(kernel: Kernel) -> Kernel:
        return replace(kernel, computes=computed.get(kernel.name, kernel.computes))

    kernels = tuple(seen(kernel) for kernel in outcome.graph.kernels)
    live = timeline(dag, dag.homes())
    largest = list(live.held.items())[:_HELD]
    return Side(
        graph=Graph(kernels, outcome.graph.tensors),
        bound=outcome.bound,
        peak_bytes=live.peak,
        work={kernel.name: kernel.work for kernel in dag.kernels},
        code=code,
        predicted_seconds=None if rates is None else seconds_of(dag, rates),
        alive=live.alive,
        held={dag.values[i].node or dag.values[i].label: size for i, size in largest},
    )


def _names(dag: Dag, indices: list[int]) -> dict[str, None]:
    """FX nodes of values, each once; a buffer inside a lowering belongs to its node."""
    values = (dag.values[i] for i in indices)
    names = (v.node or v.label.partition("#")[0] for v in values if v.kind is not Kind.VIEW)
    return {name: None for name in names if name}


# Facts: what is known of a tensor whatever is decided.


def _facts(graph: PostGrad, dags: list[Dag]) -> dict[str, Node]:
    by_name = {node.name: node for node in graph.module.graph.nodes}
    values = {
        value.node: value
        for dag in reversed(dags)
        for value in dag.values
        if value.node in by_name and value.kind is not Kind.VIEW
    }
    return {name: _fact(node, values[name]) for name, node in by_name.items() if name in values}


def _fact(node: torch.fx.Node, value: Value) -> Node:
    tensors = pytree.tree_leaves(node.meta.get("val"))
    val = next((x for x in tensors if isinstance(x, torch.Tensor)), None)
    module, layer = module_of(node)
    kind = _KINDS[value.kind]
    return Node(
        name=node.name,
        op=str(node.target) if node.op == "call_function" else node.op,
        module=module,
        layer=layer,
        source=source_line(node),
        dtype="" if val is None else str(val.dtype).removeprefix("torch."),
        shape=() if val is None else tuple(str(extent) for extent in val.shape),
        bytes=value.nbytes,
        kind="extern" if kind == "input" and node.op == "call_function" else kind,
    )


_KINDS = {Kind.SOURCE: "input", Kind.POINTWISE: "pointwise", Kind.PINNED: "reduction"}


# Decisions.


def _decisions(
    graph: PostGrad, outcomes: Mapping[str, Outcome], priced: str, prices: Mapping[str, Prices]
) -> Iterator[TensorChoice]:
    first = next(iter(outcomes))
    dag, found = outcomes[priced].dag, outcomes[priced].found
    nodes = {node.name: node for node in graph.module.graph.nodes}
    kept = frozenset(root_of(n).name for n in nodes.values() if is_pin(n, KEEP))
    indices = {policy: _by_node(one.dag) for policy, one in outcomes.items()}
    names = {policy: _decider(policy, one) for policy, one in outcomes.items()}
    to_round = rounds(graph.module, dag)
    held = held_names(graph)
    in_kernels = {v.node for v in dag.values if v.kind is not Kind.SOURCE}
    for value in dag.values:
        node = nodes.get(value.node)
        if node is None or value.kind is Kind.VIEW or node.op == "placeholder":
            continue
        price = prices[priced].price(value.index) if prices else None
        alone = indices[first].get(value.node) if prices else None
        at_first = None if alone is None else prices[first].price(alone)
        yield TensorChoice(
            node=value.node,
            rules={
                policy: rule_of(one.dag, indices[policy][value.node], names[policy], kept)
                if value.node in indices[policy]
                else "absent"
                for policy, one in outcomes.items()
            },
            stored_bytes=price.stored if price else None,
            inlined_bytes=price.inlined if price else None,
            peak_change=price.peak_change if price else 0,
            alone_saves=at_first.inlined - at_first.stored if at_first else None,
            home=dag.kernels[price.home].name if price else "",
            needed_by=_needed_by(node, in_kernels) if value.required else (),
            rounding=_rounding(node) if value.node in to_round else "",
            rounded=found is not None and value.node in found.rounded,
            held=found is not None and value.node in held & found.casts,
        )


def _groups(
    decisions: tuple[TensorChoice, ...], facts: Mapping[str, Node], prices: Prices, dag: Dag
) -> Iterator[Group]:
    """Open decisions in layers of one class, of the same operator, shape and outcome."""
    chosen = dag.nodes(dag.chosen())
    index = _by_node(dag)
    kernel = {fused.name: fused.index for fused in dag.kernels}
    alike: dict[tuple[object, ...], list[TensorChoice]] = {}
    for one in decisions:
        if one.open:
            fact = facts[one.node]
            key = (fact.op, fact.layer or fact.source, fact.dtype, fact.shape, one.node in chosen)
            alike.setdefault(key, []).append(one)
    for ones in alike.values():
        price = prices.together({index[one.node]: kernel[one.home] for one in ones})
        yield Group(tuple(one.node for one in ones), price.stored, price.inlined, price.peak_change)


def _by_node(dag: Dag) -> dict[str, int]:
    return {v.node: v.index for v in dag.values if v.node and v.kind is not Kind.VIEW}


def _decider(policy: str, outcome: Outcome) -> str:
    """Whose decisions a policy's graph has: a plan that found nothing better leaves stock's."""
    name, found = parse(policy).name, outcome.found
    if outcome.left_to_stock:
        return "stock"
    if name == "plan" and found is not None and found.store is None and not found.marked:
        return "stock"
    return name


def _needed_by(node: torch.fx.Node, in_kernels: set[str]) -> tuple[str, ...]:
    found = (reader for reader in readers(node) if reader.name not in in_kernels)
    return tuple("output" if reader.op == "output" else reader.name for reader in found)


def _rounding(node: torch.fx.Node) -> str:
    return str(node.meta["val"].dtype).removeprefix("torch.") if is_narrow(node) else "fma"
