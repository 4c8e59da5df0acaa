"""What a policy changes against the first one: by line of the model's code, and by kernel family.

The savings of :func:`changes_of` add up to what is saved in all, and so do the differences of
:func:`family_changes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..core.graph import Kernel
from .explanation import ExplainedGraph, Explanation, Side

__all__ = [
    "Changes",
    "FamilyChange",
    "FamilySide",
    "KernelPair",
    "LineChange",
    "ModuleChange",
    "TensorChange",
    "changes_of",
    "collapsed",
    "family_changes",
    "kernel_pairs",
]

# A tensor and its graph's place in the explanation.
_Placed = tuple[int, ExplainedGraph]


@dataclass(frozen=True)
class TensorChange:
    """One tensor that the policy decides otherwise than the first one.

    Attributes:
        place: its graph's place in the explanation.
        node: the FX node.
        saves: bytes that this saves against the first policy; negative where it costs some.
        before, after: ``stored``, ``inlined`` or ``absent`` under the first policy and this one.
        bytes: the tensor's size.
    """

    place: int
    node: str
    saves: int
    before: str
    after: str
    bytes: int


@dataclass(frozen=True)
class ModuleChange:
    """The changed tensors of one line in one module, or in the same module of repeated layers.

    Attributes:
        module: its path, ``*`` for the numbers in which repeated layers differ; "" if unknown.
        layer: the module's class, or "".
        modules: how many modules that path stands for.
    """

    module: str
    layer: str
    modules: int
    tensors: tuple[TensorChange, ...]

    @property
    def saves(self) -> int:
        """Bytes saved by all of its tensors."""
        return sum(one.saves for one in self.tensors)


@dataclass(frozen=True)
class LineChange:
    """The changed tensors that one line of the model's code makes.

    Attributes:
        source: ``file:line``, or "" where it is not known.
        text: that line, or "" where it could not be read.
        modules: what saves or costs most first, as in every list here.
    """

    source: str
    text: str
    modules: tuple[ModuleChange, ...]

    @property
    def saves(self) -> int:
        """Bytes saved by all of its tensors."""
        return sum(one.saves for one in self.modules)

    @property
    def tensors(self) -> tuple[TensorChange, ...]:
        """The tensors of all its modules."""
        return tuple(tensor for module in self.modules for tensor in module.tensors)


@dataclass(frozen=True)
class Changes:
    """Everything that a policy decides otherwise than the first one.

    Attributes:
        first, policy: the two that are held against each other.
        lines: by line of the model's code.
        fused_otherwise: bytes saved that no tensor explains: kernels that are fused in another way.
        saved: bytes saved in all; the lines and ``fused_otherwise`` add up to it.
        has_shares: whether it is known what each tensor saves; an old record of `compare` does
            not say, and all of ``saved`` is in ``fused_otherwise`` then.
    """

    first: str
    policy: str
    lines: tuple[LineChange, ...]
    fused_otherwise: int
    saved: int
    has_shares: bool


def changes_of(explanation: Explanation, policy: str = "") -> Changes:
    """What ``policy``, or the priced one, decides otherwise than the explanation's first."""
    first, chosen = explanation.policies[0], policy or explanation.priced
    places = [(i, g) for i, g in enumerate(explanation.graphs) if {first, chosen} <= set(g.sides)]
    by_line: dict[str, list[tuple[_Placed, TensorChange]]] = {}
    for place, graph in places:
        for one in _tensors(place, graph, first, chosen):
            source = graph.facts[one.node].source
            by_line.setdefault(source, []).append(((place, graph), one))
    lines = (
        LineChange(source, explanation.lines.get(source, ""), tuple(_modules(found)))
        for source, found in by_line.items()
    )
    saved = sum(graph.saved(chosen) for _, graph in places)
    ordered = tuple(sorted(lines, key=lambda one: (-abs(one.saves), one.source)))
    return Changes(
        first=first,
        policy=chosen,
        lines=ordered,
        fused_otherwise=saved - sum(line.saves for line in ordered),
        saved=saved,
        has_shares=any(chosen in graph.saves for _, graph in places),
    )


def _tensors(place: int, graph: ExplainedGraph, first: str, policy: str) -> Iterator[TensorChange]:
    shares = graph.saves.get(policy)
    stored = graph.sides[first].stored, graph.sides[policy].stored
    rules = {one.node: one.rules for one in graph.decisions}
    if shares is None:  # an old record names the tensors all the same
        shares = {node: 0 for node in rules if (node in stored[0]) != (node in stored[1])}

    def state(node: str, name: str, side: int) -> str:
        if node in stored[side]:
            return "stored"
        return "absent" if rules.get(node, {}).get(name) == "absent" else "inlined"

    for node, saves in shares.items():
        if node in graph.facts:
            before, after = state(node, first, 0), state(node, policy, 1)
            yield TensorChange(place, node, saves, before, after, graph.facts[node].bytes)


def _modules(found: Iterable[tuple[_Placed, TensorChange]]) -> list[ModuleChange]:
    alike: dict[tuple[str, str], list[tuple[str, TensorChange]]] = {}
    for (_, graph), one in found:
        fact = graph.facts[one.node]
        key = _pattern(fact.module), fact.layer
        alike.setdefault(key, []).append((fact.module, one))
    rows = []
    for (_, layer), ones in alike.items():
        names = {module for module, _ in ones}
        tensors = sorted((one for _, one in ones), key=lambda one: -abs(one.saves))
        rows.append(ModuleChange(collapsed(names), layer, len(names), tuple(tensors)))
    return sorted(rows, key=lambda row: (-abs(row.saves), row.module))


def _pattern(module: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in module.split("."))


def collapsed(modules: Iterable[str]) -> str:
    """One path for modules that differ in numbers alone: ``*`` for those in which they do."""
    parts = [module.split(".") for module in sorted(modules)]
    columns = (set(column) for column in zip(*parts, strict=True))
    return ".".join(column.pop() if len(column) == 1 else "*" for column in columns)


# Kernels.


@dataclass(frozen=True)
class KernelPair:
    """A fused kernel under both policies, or one that only one of them has.

    Attributes:
        place: the graph's place in the explanation.
        before, after: places in the launch order of the first policy and of this one; None where
            that one has no such kernel.
        changed: whether it reads, writes or computes anything else.
    """

    place: int
    before: int | None
    after: int | None
    changed: bool


@dataclass(frozen=True)
class FamilySide:
    """The fused kernels of one family under one policy: how many, and bytes in one call."""

    kernels: int = 0
    read_bytes: int = 0
    write_bytes: int = 0

    @property
    def bytes(self) -> int:
        """Bytes read and written."""
        return self.read_bytes + self.write_bytes

    def with_kernel(self, kernel: Kernel) -> FamilySide:
        """The same and one more kernel."""
        return FamilySide(
            self.kernels + 1,
            self.read_bytes + kernel.read_bytes,
            self.write_bytes + kernel.write_bytes,
        )


@dataclass(frozen=True)
class FamilyChange:
    """One family of fused kernels (:meth:`.ExplainedGraph.families`) under both policies.

    Attributes:
        changed: the pairs whose kernels differ, in launch order; a pair is of the family of its
            kernel under the first policy.
        unchanged: number of pairs that are the same.
    """

    family: str
    before: FamilySide
    after: FamilySide
    changed: tuple[KernelPair, ...]
    unchanged: int

    @property
    def saves(self) -> int:
        """Bytes that the family moves less than under the first policy."""
        return self.before.bytes - self.after.bytes


def family_changes(explanation: Explanation, policy: str = "") -> list[FamilyChange]:
    """Every family of fused kernels, what saves or costs most first."""
    first, chosen = explanation.policies[0], policy or explanation.priced
    sums: dict[str, tuple[FamilySide, FamilySide]] = {}
    pairs: dict[str, list[KernelPair]] = {}
    for place, graph in enumerate(explanation.graphs):
        if not {first, chosen} <= set(graph.sides):
            continue
        kernels = [graph.sides[policy].graph.kernels for policy in (first, chosen)]
        names = [graph.families(policy) for policy in (first, chosen)]
        for pair in kernel_pairs(graph, place, first, chosen):
            family = _family(pair, *names)
            before, after = sums.get(family, (FamilySide(), FamilySide()))
            sums[family] = (
                before if pair.before is None else before.with_kernel(kernels[0][pair.before]),
                after if pair.after is None else after.with_kernel(kernels[1][pair.after]),
            )
            pairs.setdefault(family, []).append(pair)
    rows = []
    for family, (before, after) in sums.items():
        changed = tuple(pair for pair in pairs[family] if pair.changed)
        rows.append(FamilyChange(family, before, after, changed, len(pairs[family]) - len(changed)))
    return sorted(rows, key=lambda row: (-abs(row.saves), -row.before.bytes, row.family))


def _family(pair: KernelPair, before: list[str], after: list[str]) -> str:
    """The family of a pair is that of its first kernel: what a kernel is for may be seen otherwise
    where it computes other things, and would then be missing in one family and new in another."""
    if pair.before is not None:
        return before[pair.before]
    return "" if pair.after is None else after[pair.after]


def kernel_pairs(
    graph: ExplainedGraph, place: int, first: str, policy: str
) -> tuple[KernelPair, ...]:
    """Which fused kernel of one policy does the work of which of the other's, in launch order.

    Kernels that move and compute the same are the same.  Of the others those belong together that
    have most in common of what one kernel alone makes (reductions, and what is written), and of
    equals the most of what they compute.
    """
    sides = graph.sides[first], graph.sides[policy]
    left, right = (
        {i: _work(k, side) for i, k in enumerate(side.graph.kernels) if k.fused} for side in sides
    )
    pairs: dict[int, int] = {}
    waiting: dict[_Work, list[int]] = {}
    for i, work in left.items():
        waiting.setdefault(work, []).append(i)
    for j, work in right.items():
        if waiting.get(work):
            pairs[j] = waiting[work].pop(0)
    same = set(pairs)
    pairs |= _alike(graph, left, right, pairs)
    found = [KernelPair(place, pairs.get(j), j, j not in same) for j in right]
    gone = set(left) - set(pairs.values())
    found += [KernelPair(place, i, None, True) for i in sorted(gone)]
    return tuple(found)


@dataclass(frozen=True)
class _Work:
    """What a kernel reads, writes and computes, by FX node: the same work has the same code."""

    reads: frozenset[tuple[str, int]]
    writes: frozenset[tuple[str, int]]
    computes: frozenset[str]

    @property
    def nodes(self) -> frozenset[str]:
        """What it computes or writes."""
        return self.computes | {node for node, _ in self.writes}


def _work(kernel: Kernel, side: Side) -> _Work:
    def labelled(sizes: Mapping[str, int]) -> frozenset[tuple[str, int]]:
        return frozenset((side.label(name), size) for name, size in sizes.items())

    return _Work(labelled(kernel.reads), labelled(kernel.writes), frozenset(kernel.computes))


def _alike(
    graph: ExplainedGraph,
    left: Mapping[int, _Work],
    right: Mapping[int, _Work],
    paired: Mapping[int, int],
) -> dict[int, int]:
    """Pairs of what is not paired yet, those that have most in common first."""
    free = {i: work for i, work in left.items() if i not in set(paired.values())}
    makers: dict[str, list[int]] = {}
    for i, work in free.items():
        for node in work.nodes:
            makers.setdefault(node, []).append(i)
    near = {
        (i, j)
        for j, work in right.items()
        if j not in paired
        for node in work.nodes
        for i in makers.get(node, ())
    }
    made = {i: _made(graph, work) for i, work in free.items()}
    made_now = {j: _made(graph, work) for j, work in right.items()}
    found: dict[int, int] = {}
    taken: set[int] = set()

    def key(pair: tuple[int, int]) -> tuple[float, ...]:
        i, j = pair
        one, other = left[i].computes, right[j].computes
        common = len(one & other) / max(len(one | other), 1)
        return -len(made[i] & made_now[j]), -common, j, i

    for i, j in sorted(near, key=key):
        if i not in taken and j not in found:
            found[j] = i
            taken.add(i)
    return found


def _made(graph: ExplainedGraph, work: _Work) -> set[str]:
    """What only one kernel makes: reductions that it computes, and what it writes."""
    facts = graph.facts
    reductions = {n for n in work.computes if n in facts and facts[n].kind == "reduction"}
    return reductions | {node for node, _ in work.writes}
