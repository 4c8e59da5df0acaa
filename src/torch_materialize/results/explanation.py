"""What `compare` and `explain` found: graphs, kernels, decisions.  Every view is made from this."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..core.graph import Graph, Kernel
from ..core.policy import parse
from ..core.saving import Kept, kept_bytes
from ..core.story import Group, Refusal, TensorChoice, gap_parts
from ..core.traffic import Traffic, traffic

__all__ = ["Code", "ExplainedGraph", "Explanation", "Node", "Side"]


@dataclass(frozen=True)
class Node:
    """An FX node that stands for a tensor.

    Attributes:
        name: the FX node's name.
        op: the operator, ``aten.add.Tensor``; ``placeholder`` for a graph input.
        module: path of the module whose forward made it (``layers.3.mlp``), or "".
        layer: that module's class (``LlamaRMSNorm``), or "".
        source: ``file:line`` of the model's code, or "".
        dtype, shape: shape as text; symbolic extents keep their symbols.
        bytes: its size under Inductor's size hints.
        kind: ``input``, ``extern``, ``pointwise`` or ``reduction``.
    """

    name: str
    op: str
    module: str
    layer: str
    source: str
    dtype: str
    shape: tuple[str, ...]
    bytes: int
    kind: str


@dataclass(frozen=True)
class Code:
    """Generated code of one graph.

    Attributes:
        kernels: function name -> its source.
        launches: the function that each fused kernel calls, in launch order; empty where the
            calls could not be matched with the kernels.
        arguments: for each of them the buffers that it is called with, in the order of the
            function's pointers; empty in records of older versions.
        reused: buffer -> the one whose memory it takes over; a kernel that does so in place
            reads the old one and writes the new one through one pointer.
    """

    kernels: Mapping[str, str]
    launches: tuple[str, ...] = ()
    arguments: tuple[tuple[str, ...], ...] = ()
    reused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Side:
    """One graph under one policy.

    Attributes:
        graph: its kernels in launch order; ``computes`` names the FX nodes of tensors that a
            fused kernel evaluates, recomputed ones included.
        bound: certified least bytes, None where the policy has none.
        peak_bytes: most bytes alive at once, inputs and outputs counted.
        alive: bytes alive at each launch, in launch order; empty in records of older versions.
        held: the largest of what is alive where most is: FX node or buffer -> bytes.
        work: fused kernel -> operations that it executes.
        code: the generated code, where it was wanted.
        predicted_seconds: time that its fused kernels should take in one call, by the rates fitted
            to measurements on the device (:mod:`..core.fits`); None where there are none.
    """

    graph: Graph
    bound: float | None = None
    peak_bytes: int = 0
    work: Mapping[str, int] = field(default_factory=dict)
    code: Code | None = None
    predicted_seconds: float | None = None
    alive: tuple[int, ...] = ()
    held: Mapping[str, int] = field(default_factory=dict)

    def label(self, buffer: str) -> str:
        """What a buffer is called in the model's graph: the FX node, or the buffer itself."""
        tensor = self.graph.tensors.get(buffer)
        return tensor.node if tensor is not None and tensor.node else buffer

    @functools.cached_property
    def bytes(self) -> int:
        """Bytes that the fused kernels move."""
        return traffic(self.graph).bytes

    @functools.cached_property
    def stored(self) -> frozenset[str]:
        """FX nodes that some fused kernel writes to memory."""
        return frozenset(self.graph.materialized())

    def source_of(self, place: int) -> tuple[str, str]:
        """Function name and source of the fused kernel that is launched at ``place``."""
        if self.code is None or place >= len(self.code.launches):
            return "", ""
        name = self.code.launches[place]
        return name, self.code.kernels[name]

    def arguments_of(self, place: int) -> list[tuple[str, str]]:
        """What the fused kernel launched at ``place`` is called with, as FX nodes.

        Of each argument what its memory held before, which a kernel reads that works in place,
        and what it holds then; the two are the same where no other buffer's memory is taken over.
        """
        if self.code is None or place >= len(self.code.arguments):
            return []
        reused = self.code.reused
        return [
            (self.label(reused.get(name, name)), self.label(name))
            for name in self.code.arguments[place]
        ]

    @functools.cached_property
    def readers(self) -> dict[str, list[str]]:
        """FX node -> the kernels that read it from memory."""
        found: dict[str, list[str]] = {}
        for kernel in self.graph.kernels:
            for label in dict.fromkeys(map(self.label, kernel.reads)):
                found.setdefault(label, []).append(kernel.name)
        return found

    @functools.cached_property
    def computers(self) -> dict[str, list[str]]:
        """FX node -> the fused kernels that compute it."""
        found: dict[str, list[str]] = {}
        for kernel in self.graph.fused():
            for node in kernel.computes:
                found.setdefault(node, []).append(kernel.name)
        return found


def graph_title(kind: str, caller: str, calls: int) -> str:
    """The ``kind`` of graph; of the body of an operator also whose it is, and how many calls."""
    if not caller:
        return kind
    return f"{kind} body of {caller} ({calls} {'calls' if calls > 1 else 'call'})"


@dataclass(frozen=True)
class ExplainedGraph:
    """One post-grad graph under each policy.

    Attributes:
        kind: ``inference``, ``forward`` or ``backward``.
        caller: of the body of a higher-order operator that operator (``invoke_subgraph``), else "".
        calls: how many calls of a body the whole graph has, which its kernels are launched in; 1
            for any other graph.  Sums over graphs count each call; what is told of one kernel or
            tensor is told of one call.
        nodes: number of FX nodes.
        left_out: of them, those in repeated layers that the kernels here do not have.
        facts: FX node -> what is known of it whatever is decided.
        sides: policy -> what it makes of the graph.
        decisions: one for each tensor, in program order; prices only where they were computed.
        groups: the open decisions, those alike together.
        refused: better plans that a rule kept from being taken.
        unfused: bytes that the plan behind the priced policy's bound moves more, lowered, than it
            foresaw.
        saves: policy -> FX node -> bytes that its decision saves in all calls against the first
            policy, of the nodes that the two decide otherwise (:mod:`..core.shares`).
        kept: policy that plans -> what the forward keeps for its backward; of forwards only.
        left_to_stock: why the priced policy has no plan for the graph, which is stock's then; ""
            where it has one.
    """

    kind: str
    nodes: int
    facts: Mapping[str, Node]
    sides: Mapping[str, Side]
    decisions: tuple[TensorChoice, ...]
    groups: tuple[Group, ...] = ()
    left_out: int = 0
    refused: tuple[Refusal, ...] = ()
    unfused: int = 0
    saves: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    caller: str = ""
    calls: int = 1
    kept: Mapping[str, Kept] = field(default_factory=dict)
    left_to_stock: str = ""

    @property
    def title(self) -> str:
        """The kind of graph; of a body also whose it is, and how many calls it has."""
        return graph_title(self.kind, self.caller, self.calls)

    @property
    def refusals(self) -> list[str]:
        """Why there is no plan, or no better one, a sentence each."""
        left = [f"Left to stock: {self.left_to_stock}"] if self.left_to_stock else []
        return left + [one.sentence() for one in self.refused]

    def traffic(self, policy: str) -> Traffic:
        """Bytes and launches of all calls under one policy."""
        return traffic(self.sides[policy].graph).times(self.calls)

    def kept_bytes(self, policy: str) -> int | None:
        """Bytes that the forward keeps for its backward under a policy; None where not known."""
        return kept_bytes(self.kept, policy)

    def saved(self, policy: str) -> int:
        """Bytes that a policy saves against the first one, in all calls."""
        first = next(iter(self.sides.values()))
        return (first.bytes - self.sides[policy].bytes) * self.calls

    def rest(self, policy: str) -> int:
        """What of them no decision explains: kernels that are fused in another way, or graphs of
        which the forward keeps other tensors.
        """
        return self.saved(policy) - sum(self.saves.get(policy, {}).values())

    def stored(self) -> dict[str, frozenset[str]]:
        """Policy -> the FX nodes that some fused kernel writes to memory."""
        return {policy: side.stored for policy, side in self.sides.items()}

    @functools.cached_property
    def group_of(self) -> dict[str, Group]:
        """FX node -> the group that it is decided with."""
        return {node: group for group in self.groups for node in group.nodes}

    @functools.cached_property
    def saved_together(self) -> dict[str, dict[str, tuple[int, int]]]:
        """Policy -> FX node -> how many of its group differ, and what those save together."""
        found: dict[str, dict[str, tuple[int, int]]] = {}
        for policy, shares in self.saves.items():
            for group in self.groups:
                alike = [node for node in group.nodes if node in shares]
                together = len(alike), sum(shares[node] for node in alike)
                found.setdefault(policy, {}).update(dict.fromkeys(alike, together))
        return found

    def families(self, policy: str) -> list[str]:
        """What the kernels of a policy are grouped by, in launch order.

        The class of the layer that a kernel works for; where that is not known, the operator
        of what it makes for kernels other than fused ones, which is the same under every policy.
        """
        return [family for family, _ in self.works_for(policy)]

    def works_for(self, policy: str) -> list[tuple[str, str]]:
        """Family and module path of each kernel of a policy, in launch order.

        A kernel that sums up works for the module of its sums: what else it computes, it
        computes for them.  Of several modules of that class it is the last in program order,
        which the rest are computed for, or, of a kernel that writes several tensors, what
        their paths have in common; "" where the trace knows no module.
        """
        needed = {one.node for one in self.decisions if "needed" in one.rules.values()}
        side = self.sides[policy]
        return [self._works_for(kernel, side, needed) for kernel in side.graph.kernels]

    def _works_for(self, kernel: Kernel, side: Side, needed: set[str]) -> tuple[str, str]:
        if not kernel.fused:
            return kernel.kind, ""
        facts = [self.facts[name] for name in kernel.computes if name in self.facts]
        reductions = [fact for fact in facts if fact.kind == "reduction"]
        known = [fact for fact in reductions or facts if fact.layer]
        if known:
            family = Counter(fact.layer for fact in known).most_common(1)[0][0]
            modules = [fact.module for fact in known if fact.layer == family]
            return family, _common(modules) if len(kernel.writes) > 1 else modules[-1]
        module = next((fact.module for fact in reversed(facts) if fact.module), "")
        written = [side.label(name) for name in kernel.writes]
        made = [self.facts[name] for name in written if name in needed and name in self.facts]
        for fact in (made or reductions or facts)[:1]:
            name = fact.op.split(".")[1] if "." in fact.op else fact.op
            return f"{name} ({kernel.kind})", module
        return kernel.kind, module


def _common(modules: Sequence[str]) -> str:
    """The path that holds all these modules."""
    parts = [module.split(".") for module in modules]
    same = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False))
    return ".".join(column[0] for column in same)


@dataclass(frozen=True)
class Explanation:
    """One model under several policies on one device.

    Attributes:
        policies: in the order given; the first is what the rest are held against.
        priced: the policy whose decisions are shown, and that prices are of.
        prices: whether prices of the other way were computed: `explain` does, `compare` does not.
        unit_bytes: size of one activation, 0 where the target has no such unit.
        seconds: wall time by step.
        versions: package -> installed version.
        balance: bytes that the device is taken to move in the time of one operation.
        origin: ``model`` for a trial lowering, ``compile`` for a program's own compile.
        tracing: ``dynamo`` or ``make_fx``.
        lines: ``file:line`` -> the text of that line, of every source of a fact that could be read.
        command: the words after ``torch-materialize compare`` that make it anew; empty where no
            command made it.
    """

    target: str
    device: str
    policies: tuple[str, ...]
    priced: str
    graphs: tuple[ExplainedGraph, ...]
    unit_bytes: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    size: Mapping[str, int | None] = field(default_factory=dict)
    balance: float = 0.0
    origin: str = "model"
    tracing: str = "dynamo"
    prices: bool = True
    lines: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()

    @property
    def numerics(self) -> str:
        """What the priced policy promises about rounding."""
        return parse(self.priced).numerics

    def traffic(self, policy: str) -> Traffic:
        """Bytes and launches of all graphs under one policy."""
        total = Traffic(0, 0, 0, 0)
        for graph in self.graphs:
            if policy in graph.sides:
                total += graph.traffic(policy)
        return total

    def predicted_seconds(self, policy: str) -> float | None:
        """Time that the fused kernels of all graphs should take in one call.

        None where the device has no rates that were fitted to measurements.
        """
        graphs = [graph for graph in self.graphs if policy in graph.sides]
        times = [(g.sides[policy].predicted_seconds, g.calls) for g in graphs]
        known = [seconds * calls for seconds, calls in times if seconds is not None]
        return sum(known) if known and len(known) == len(times) else None

    def peak_bytes(self, policy: str) -> int:
        """Most bytes alive at once in one of the graphs, inputs and outputs counted."""
        sides = (graph.sides[policy] for graph in self.graphs if policy in graph.sides)
        return max((side.peak_bytes for side in sides), default=0)

    def kept_bytes(self, policy: str) -> int | None:
        """Bytes that all forwards keep for their backwards; None where that is not known."""
        # What bodies keep, the graph that calls them keeps.
        forwards = [one for one in self.graphs if one.kind == "forward" and not one.caller]
        known = [kept for g in forwards if (kept := g.kept_bytes(policy)) is not None]
        return sum(known) if known and len(known) == len(forwards) else None

    def keeps_otherwise(self, policy: str) -> bool:
        """Whether some forward keeps other tensors for its backward than stock's."""
        return any(not g.kept[policy].is_stock for g in self.graphs if policy in g.kept)

    def rest_text(self, policy: str) -> str:
        """What saves the bytes that no decision explains (:meth:`.ExplainedGraph.rest`)."""
        return "kept or fused otherwise" if self.keeps_otherwise(policy) else "fused otherwise"

    def bound(self, policy: str = "") -> float | None:
        """Certified least bytes of all graphs under a policy, or the priced one.

        None where some graph has none.
        """
        chosen = policy or self.priced
        graphs = [graph for graph in self.graphs if chosen in graph.sides]
        bounds = [(graph.sides[chosen].bound, graph.calls) for graph in graphs]
        known = [bound * calls for bound, calls in bounds if bound is not None]
        return sum(known) if known and len(known) == len(bounds) else None

    def gap(self) -> dict[str, int]:
        """Why the priced policy moves more than its certified least: see :func:`.gap_parts`."""
        found: dict[str, int] = {}
        for graph in self.graphs:
            side = graph.sides.get(self.priced)
            if side is not None and side.bound is not None:
                parts = gap_parts(side.bytes, side.bound, graph.refused, graph.unfused)
                for why, size in parts.items():
                    found[why] = found.get(why, 0) + size * graph.calls
        return found

    def decisions(self) -> Iterator[tuple[ExplainedGraph, TensorChoice]]:
        """Every tensor's decision, with its graph."""
        for graph in self.graphs:
            for decision in graph.decisions:
                yield graph, decision
