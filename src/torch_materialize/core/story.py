"""One tensor's story: who decided about it, by which rule, and what the other way would cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from .dag import Dag, Kind

__all__ = [
    "FUSION",
    "OPEN",
    "RULES",
    "Group",
    "Refusal",
    "TensorChoice",
    "gap_parts",
    "gap_text",
    "rule_of",
]

#: Rule -> what it says, as the end of "It is ... because ...".
RULES: Mapping[str, str] = MappingProxyType(
    {
        "input": "it is an input of the graph",
        "extern": "a kernel that Inductor does not fuse computes it",
        "reduction": "one kernel computes it, and no other could",
        "keep": "the model pins it with keep",
        "inline": "the model pins it with inline",
        "needed": "something besides fused kernels reads it",
        "unasked": "Inductor writes it by a rule that no plan reaches",
        "stock": "Inductor counts its reads and its users",
        "traffic": "the local rule weighs its reads against its size",
        "plan": "the plan moves fewest bytes that way",
        "absent": "the graph that this policy lowers does not have it",
    }
)


@dataclass(frozen=True)
class TensorChoice:
    """What was decided about one tensor.

    Attributes:
        node: the FX node.
        rules: policy -> the rule of :data:`RULES` that decided.
        stored_bytes: what all fused kernels move if it is written; None where that is not
            open, as for every figure here.  Everything else is as the plan has it.
        inlined_bytes: what they move if it is recomputed wherever it is needed.
        peak_change: how many bytes higher the peak memory is where it is stored.
        alone_saves: bytes that storing this one alone saves in the first policy's kernels;
            None where it is not open there.
        home: the kernel that writes it, or that would.
        needed_by: FX nodes besides fused kernels that read it.
        rounding: the dtype that it is rounded to where it is stored and not where it is
            inlined; ``fma`` where inlining lets a product and a sum round once instead of
            twice; "" where both ways give the same number.
        rounded: it is written, and rounded for the kernel that writes it, too.
        held: a narrowing cast that upstream's joint-graph pass would have folded away.
    """

    node: str
    rules: Mapping[str, str]
    stored_bytes: int | None = None
    inlined_bytes: int | None = None
    peak_change: int = 0
    alone_saves: int | None = None
    home: str = ""
    needed_by: tuple[str, ...] = ()
    rounding: str = ""
    rounded: bool = False
    held: bool = False

    @property
    def saves(self) -> int:
        """Bytes that storing it saves; negative where inlining does; 0 where it is not open."""
        if self.stored_bytes is None or self.inlined_bytes is None:
            return 0
        return self.inlined_bytes - self.stored_bytes

    @property
    def open(self) -> bool:
        """Whether both ways are possible."""
        return self.stored_bytes is not None


@dataclass(frozen=True)
class Group:
    """Tensors of repeated layers that are decided alike, priced together.

    Their prices one by one do not add up: with all other residuals written, one more or less
    costs nearly nothing, and with none of them everything.

    Attributes:
        nodes: FX nodes, in program order; all written or all inlined by the priced policy.
        stored_bytes, inlined_bytes, peak_change: as for :class:`TensorChoice`, all flipped at once.
    """

    nodes: tuple[str, ...]
    stored_bytes: int
    inlined_bytes: int
    peak_change: int = 0

    @property
    def saves(self) -> int:
        """Bytes that storing all of them saves; negative where inlining does."""
        return self.inlined_bytes - self.stored_bytes


@dataclass(frozen=True)
class Refusal:
    """A plan that was tried, moves fewer bytes than what was taken, and may not be taken.

    Attributes:
        rule: ``peak`` (memory, in bytes), ``arguments`` (buffers of one kernel), ``time``
            (predicted seconds), ``operations`` (what it computes more, as bytes that the device
            could move meanwhile), ``launches`` (bytes that its further kernels have to save),
            ``sums`` (numbers are to be stock's, and it sums up in other kernels) or ``templates``
            (it would be fused into kernels that cannot take it).
        bytes, stock_bytes: what its fused kernels move, and stock's.
        found, limit: in the rule's unit, what it has and what is allowed; 0 of what has none.
        stock: the same of stock; of ``launches`` the number of further kernels.
        instead: bytes that what was taken moves; 0 in records of older versions.
    """

    rule: str
    bytes: int
    stock_bytes: int
    found: float = 0
    limit: float = 0
    stock: float = 0
    instead: int = 0

    @property
    def saves(self) -> float:
        """Share of stock's bytes that it would save."""
        return 1 - self.bytes / self.stock_bytes if self.stock_bytes else 0.0

    def sentence(self) -> str:
        """What was refused and why, as every view says it."""
        return (
            f"A plan that moves {self.saves:.1%} fewer bytes than stock was refused: "
            f"{self._reason()}."
        )

    def _reason(self) -> str:
        above = _above(self.found, self.stock)
        limit = f"(limit {100 * _above(self.limit, self.stock):.3g}%)"
        reasons = {
            "peak": f"its estimated peak memory is {above:.1%} above stock's {limit}",
            "time": f"its predicted time is {above:.1%} above stock's {limit}",
            "operations": "what it computes more takes as long as moving "
            f"{self.found / 1e6:.3g} MB, and it saves {self.limit / 1e6:.3g} MB",
            "arguments": f"one of its kernels takes {self.found:.0f} buffers "
            f"(limit {self.limit:.0f})",
            "launches": f"it launches {self.stock:.0f} more kernel{'' if self.stock == 1 else 's'} "
            f"and saves {self.found / 1e6:.3g} MB (worth it from {self.limit / 1e6:.3g} MB)",
            "sums": "it sums up in other kernels, so its numbers would not be stock's",
            "templates": "a kernel template would have to compute something else than under stock",
        }
        if self.rule == "time" and self.found <= self.stock:
            return (
                f"its predicted time is {_above(self.found, self.limit):.1%} above the most that "
                "is allowed beside a faster plan"
            )
        return reasons[self.rule]


#: What is left of a gap where the plan behind the bound was lowered, and fused otherwise.
FUSION = "fusion"
#: What neither a refused plan nor that explains of a gap.
OPEN = "open"


def gap_parts(
    moved: int, bound: float, refused: Sequence[Refusal], unfused: int = 0
) -> dict[str, int]:
    """Why a graph moves more than its certified least: rule, :data:`FUSION` or :data:`OPEN` ->
    bytes.

    What the refused plan of the fewest bytes would have saved is its rule's; plans that save less
    add nothing to that.  ``unfused`` are the bytes that the plan behind the bound moves more, when
    it is lowered, than it foresaw.
    """
    gap, found = max(round(moved - bound), 0), {}
    known = [one for one in refused if one.instead]
    if known:
        # Refused plans are of the graph without most of its repeated layers.
        best = min(known, key=lambda one: one.bytes / one.instead)
        saved = round(moved * (1 - best.bytes / best.instead))
        found[best.rule] = min(max(saved, 0), gap)
    found[FUSION] = min(unfused, gap - sum(found.values()))
    found[OPEN] = gap - sum(found.values())
    return {why: size for why, size in found.items() if size}


#: Rule of a refused plan, :data:`FUSION` or :data:`OPEN` -> how a gap says it.
_GAPS: Mapping[str, str] = MappingProxyType(
    {
        "time": "to a plan refused for its predicted time",
        "operations": "to a plan that computes too much for it",
        "peak": "to a plan refused for its peak memory",
        "arguments": "to a plan refused for the buffers of one kernel",
        "launches": "to a plan refused for its further kernels",
        "sums": "to a plan that sums up in other kernels than stock",
        "templates": "to a plan that changes a kernel template",
        FUSION: "to fusions that Inductor does not make",
        OPEN: "open",
    }
)


def gap_text(parts: Mapping[str, int], bound: float) -> str:
    """``9.37%: 9.30% to a plan refused for its predicted time, 0.07% open``, of the bound."""
    least = max(bound, 1.0)
    total = f"{sum(parts.values()) / least:.2%}"
    if set(parts) <= {OPEN}:
        return total
    named = ", ".join(f"{size / least:.2%} {_GAPS.get(why, why)}" for why, size in parts.items())
    return f"{total}: {named}"


def _above(one: float, other: float) -> float:
    """By what share of the other one figure exceeds it."""
    return one / other - 1 if other else 0.0


def rule_of(dag: Dag, index: int, policy: str, kept: frozenset[str]) -> str:
    """The rule that decided about one value; ``kept`` are the nodes pinned with ``keep``."""
    value = dag.values[index]
    if value.kind is Kind.SOURCE:
        return "extern" if value.ready >= 0 else "input"
    if value.kind is Kind.PINNED:
        return "reduction"
    if index in dag.never:
        return "inline"
    if value.node in kept:
        return "keep"
    if value.required:
        return "needed"
    return "unasked" if index in dag.forced else policy
