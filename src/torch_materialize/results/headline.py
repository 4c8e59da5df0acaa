"""What every view of an explanation shows: the headline, families, the read growth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..core.devices import named
from ..core.graph import Kernel
from ..core.story import TensorChoice
from .explanation import ExplainedGraph, Explanation, Node

__all__ = [
    "NOT_PRICED",
    "DecisionRow",
    "Growth",
    "Headline",
    "Saving",
    "decision_rows",
    "families",
    "growth",
    "has_shares",
    "headline",
    "pin_line",
    "pin_of",
    "place_text",
    "plural",
    "refusals",
    "short_source",
    "signed_text",
    "size_text",
    "sum_rows",
    "type_text",
    "worth_most",
]

#: What stands for the prices of a record that `compare` wrote.
NOT_PRICED = "Prices: not computed; run torch-materialize explain."

# Fewer kernels than this are no row along the layers.
_ROW = 3


def size_text(size: int) -> str:
    """Bytes as people read them: decimal units, three figures."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 999.5:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB"


def plural(number: int, noun: str) -> str:
    """``1 kernel``, ``2 kernels``, ``3 families``."""
    if number == 1:
        return f"1 {noun}"
    ends = noun.endswith("y") and not noun.endswith(("ay", "ey", "oy"))
    return f"{number} {noun[:-1]}ies" if ends else f"{number} {noun}s"


@dataclass(frozen=True)
class Headline:
    """The figures to read first, in bytes of the fused kernels.

    Attributes:
        moved: by the first policy.
        planned: by the priced policy.
        bound: certified least, None where there is none.
    """

    moved: int
    planned: int
    bound: float | None

    @property
    def avoidable(self) -> int | None:
        """What the first policy moves above the least that is known to be possible.

        None where nothing is known: there is no bound, and no policy moves less.
        """
        if self.bound is None and self.planned >= self.moved:
            return None
        return self.moved - round(min(self.planned, self.bound or self.planned))


def headline(explanation: Explanation) -> Headline:
    """The first figures of every view."""
    return Headline(
        explanation.traffic(explanation.policies[0]).bytes,
        explanation.traffic(explanation.priced).bytes,
        explanation.bound(),
    )


def families(explanation: Explanation) -> dict[str, dict[str, int]]:
    """Kernel family -> policy -> bytes that its fused kernels move; the largest family first."""
    found: dict[str, dict[str, int]] = {}
    for graph in explanation.graphs:
        for policy, side in graph.sides.items():
            for kernel, family in zip(side.graph.kernels, graph.families(policy), strict=True):
                if kernel.fused:
                    row = found.setdefault(family, dict.fromkeys(explanation.policies, 0))
                    row[policy] += kernel.bytes * graph.calls
    return dict(sorted(found.items(), key=lambda item: (-max(item[1].values()), item[0])))


@dataclass(frozen=True)
class Growth:
    """Bytes that each kernel of one family reads, in launch order.

    Attributes:
        family: whose kernels they are.
        place: the graph's place in the explanation.
        reads: policy -> bytes, one figure a kernel.
        unit: bytes of one activation: what the target says, or the most that one of its kernels
            writes to one buffer under the first policy.
    """

    family: str
    place: int
    reads: Mapping[str, tuple[int, ...]]
    unit: int


def growth(explanation: Explanation) -> Growth | None:
    """The row of kernels along the layers on which the policies differ most."""
    best: tuple[int, Growth] | None = None
    for place, graph in enumerate(explanation.graphs):
        for family, rows in _rows(graph).items():
            if min(map(len, rows.values())) < _ROW or len(rows) < len(graph.sides):
                continue
            totals = [sum(k.bytes for k in kernels) for kernels in rows.values()]
            apart = max(totals) - min(totals)
            if best is None or apart > best[0]:
                unit = explanation.unit_bytes or _unit(next(iter(rows.values())))
                reads = {p: tuple(k.read_bytes for k in kernels) for p, kernels in rows.items()}
                best = apart, Growth(family, place, reads, unit)
    return best[1] if best else None


def _rows(graph: ExplainedGraph) -> dict[str, dict[str, list[Kernel]]]:
    found: dict[str, dict[str, list[Kernel]]] = {}
    for policy, side in graph.sides.items():
        for kernel, family in zip(side.graph.kernels, graph.families(policy), strict=True):
            if kernel.fused:
                found.setdefault(family, {}).setdefault(policy, []).append(kernel)
    return found


def _unit(kernels: list[Kernel]) -> int:
    sizes = [size for kernel in kernels for size in kernel.writes.values()]
    return max(sizes, default=1) or 1


@dataclass(frozen=True)
class Saving:
    """Nodes that are decided alike, and otherwise than by the first policy.

    ``saves`` is what their decisions save against it in bytes; None in a record without shares.
    """

    graph: ExplainedGraph
    nodes: tuple[str, ...]
    saves: int | None


def worth_most(explanation: Explanation) -> list[Saving]:
    """What the priced policy decides otherwise than the first: what saves or costs most first.

    The decisions' savings and :meth:`.ExplainedGraph.rest` add up to what is saved in all.  Where
    there is nothing to hold them against (one policy, an old record), the open decisions that cost
    most to flip.
    """
    if not has_shares(explanation):
        groups = [(graph, group) for graph in explanation.graphs for group in graph.groups]
        groups = sorted((pair for pair in groups if pair[1].saves), key=lambda p: -abs(p[1].saves))
        return [Saving(graph, group.nodes, None) for graph, group in groups]
    found: list[Saving] = []
    for graph in explanation.graphs:
        shares = graph.saves.get(explanation.priced, {})
        alike: dict[tuple[str, ...], list[str]] = {}
        for node in shares:
            group = graph.group_of.get(node)
            alike.setdefault(group.nodes if group else (node,), []).append(node)
        found += [
            Saving(graph, tuple(nodes), sum(shares[node] for node in nodes))
            for nodes in alike.values()
        ]
    return sorted(found, key=lambda one: -abs(one.saves or 0))


def has_shares(explanation: Explanation) -> bool:
    """Whether it is known what each decision saves."""
    return any(explanation.priced in graph.saves for graph in explanation.graphs)


@dataclass(frozen=True)
class DecisionRow:
    """One group of decisions in words.

    ``saves`` is against the first policy, "" where that is not known; ``stored`` and ``inlined``
    are bytes above the better of the two ways, all of them flipped at once, "" where nothing is
    open; ``place`` is the graph's place in the explanation.
    """

    place: int
    name: str
    alike: int
    type: str
    where: str
    stored_by: str
    saves: str
    stored: str
    inlined: str


def decision_rows(explanation: Explanation, limit: int) -> list[DecisionRow]:
    """The decisions worth most, as every view words them."""
    rows = []
    for one in worth_most(explanation)[:limit]:
        graph, nodes = one.graph, one.nodes
        fact = graph.facts[nodes[0]]
        storing = [
            policy if set(nodes) <= stored else f"{policy} (some)"
            for policy, stored in graph.stored().items()
            if not stored.isdisjoint(nodes)
        ]
        group = graph.group_of.get(nodes[0])
        least = min(group.stored_bytes, group.inlined_bytes) if group else 0
        rows.append(
            DecisionRow(
                place=explanation.graphs.index(graph),
                name=fact.name,
                alike=len(nodes) - 1,
                type=type_text(fact),
                where=short_source(fact.source, 1),
                stored_by=", ".join(storing) or "none",
                saves="" if one.saves is None else signed_text(one.saves),
                stored=_above(group.stored_bytes, least) if group else "",
                inlined=_above(group.inlined_bytes, least) if group else "",
            )
        )
    return rows


def sum_rows(explanation: Explanation, limit: int) -> list[tuple[str, str]]:
    """What the rows of :func:`decision_rows` leave out, and what all of them add up to."""
    if not has_shares(explanation):
        return []
    priced, found = explanation.priced, worth_most(explanation)
    left = sum(one.saves or 0 for one in found[limit:])
    rest = sum(graph.rest(priced) for graph in explanation.graphs if priced in graph.sides)
    total = sum(graph.saved(priced) for graph in explanation.graphs if priced in graph.sides)
    rows = [(f"{len(found) - limit} more", signed_text(left))] if len(found) > limit else []
    if rest:
        rows.append((explanation.rest_text(priced), signed_text(rest)))
    return [*rows, ("all", signed_text(total))]


def signed_text(size: int) -> str:
    """:func:`size_text` with a sign where it is negative."""
    return f"-{size_text(-size)}" if size < 0 else size_text(size)


def _above(size: int, least: int) -> str:
    return f"+{size_text(size - least)}" if size > least else "least"


def pin_of(graph: ExplainedGraph, decision: TensorChoice, policy: str) -> str:
    """The line of model code that pins what ``policy`` decided; "" where nothing is open."""
    if not decision.open:
        return ""
    return pin_line(graph, decision, decision.node in graph.sides[policy].stored)


def pin_line(graph: ExplainedGraph, decision: TensorChoice, stored: bool) -> str:
    """The line of model code that has a tensor written to memory, or recomputed."""
    source = graph.facts[decision.node].source
    place = f"  # behind {short_source(source)}" if source else ""
    return f"x = tm.{'keep' if stored else 'inline'}(x){place}"


def place_text(explanation: Explanation) -> str:
    """Where the model runs, or would."""
    device = named(explanation.device)
    if explanation.origin == "compile" or not device.is_gpu:
        return "this CPU" if device.name == "cpu" else device.title
    return f"planned {device.title}"


def refusals(explanation: Explanation) -> list[str]:
    """Better plans that a rule kept from being taken, a sentence each."""
    several = len(explanation.graphs) > 1
    return [
        f"Graph {place} ({graph.title}): {sentence}" if several else sentence
        for place, graph in enumerate(explanation.graphs, 1)
        for sentence in graph.refusals
    ]


_SHORT = {"bfloat16": "bf16", "float16": "f16", "float32": "f32", "float64": "f64"}


def type_text(fact: Node) -> str:
    """``bf16[8192x4096]``."""
    return f"{_SHORT.get(fact.dtype, fact.dtype)}[{'x'.join(fact.shape)}]"


def short_source(source: str, parts: int = 3) -> str:
    """``file:line`` without what leads to the package or the project; at most ``parts`` parts."""
    path = source.rpartition("site-packages/")[2]
    return "/".join(path.split("/")[-parts:])
