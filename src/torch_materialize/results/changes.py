"""What a policy changes against the first one: by line of the model's code, and by kernel family.

The savings of :func:`changes_of` add up to what is saved in all, and so do the differences of
:func:`family_changes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..core.graph import Kernel
from .explanation import ExplainedGraph, Explanation
from .pairs import KernelPair, kernel_pairs

__all__ = [
    "Changes",
    "FamilyChange",
    "FamilySide",
    "LineChange",
    "ModuleChange",
    "TensorChange",
    "changes_of",
    "collapsed",
    "family_changes",
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
        fused_otherwise: bytes saved that no tensor explains: kernels that are fused in another way,
            or graphs of which the forward keeps other tensors; ``rest_text`` says which.
        saved: bytes saved in all; the lines and ``fused_otherwise`` add up to it.
        has_shares: whether it is known what each tensor saves; an old record of `compare` does
            not say, and all of ``saved`` is in ``fused_otherwise`` then.
    """

    first: str
    policy: str
    lines: tuple[LineChange, ...]
    fused_otherwise: int
    rest_text: str
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
        rest_text=explanation.rest_text(chosen),
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
class FamilySide:
    """The fused kernels of one family under one policy: how many, and bytes in one call."""

    kernels: int = 0
    read_bytes: int = 0
    write_bytes: int = 0

    @property
    def bytes(self) -> int:
        """Bytes read and written."""
        return self.read_bytes + self.write_bytes

    def with_kernels(self, kernels: Iterable[Kernel], calls: int = 1) -> FamilySide:
        """The same and these kernels, launched ``calls`` times."""
        found = list(kernels)
        return FamilySide(
            self.kernels + calls * len(found),
            self.read_bytes + calls * sum(kernel.read_bytes for kernel in found),
            self.write_bytes + calls * sum(kernel.write_bytes for kernel in found),
        )


@dataclass(frozen=True)
class FamilyChange:
    """One family of fused kernels (:meth:`.ExplainedGraph.families`) under both policies.

    Attributes:
        changed: the pairs whose kernels differ, in launch order.
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
        for pair in kernel_pairs(graph, place, first, chosen):
            before, after = sums.get(pair.family, (FamilySide(), FamilySide()))
            sums[pair.family] = (
                before.with_kernels((kernels[0][i] for i in pair.before), graph.calls),
                after.with_kernels((kernels[1][i] for i in pair.after), graph.calls),
            )
            pairs.setdefault(pair.family, []).append(pair)
    rows = []
    for family, (before, after) in sums.items():
        changed = tuple(pair for pair in pairs[family] if pair.changed)
        rows.append(FamilyChange(family, before, after, changed, len(pairs[family]) - len(changed)))
    return sorted(rows, key=lambda row: (-abs(row.saves), -row.before.bytes, row.family))
