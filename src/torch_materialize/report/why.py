"""One tensor's story in sentences."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from ..core.story import RULES, Decision
from ..errors import TargetError
from ..explanation import ExplainedGraph, Explanation, Node
from ..figures import pin_of, short_source, size_text, type_text

__all__ = ["find_tensor", "why"]


def find_tensor(explanation: Explanation, name: str) -> list[tuple[ExplainedGraph, Decision]]:
    """The decisions on a tensor, in every graph that has it: by FX node or ``file:line``.

    Raises:
        TargetError: no graph has it; the nearest names are given.
    """
    found = [
        (graph, decision)
        for graph, decision in explanation.decisions()
        if decision.node == name
        or (":" in name and graph.facts[decision.node].source.endswith(name))
    ]
    if not found:
        known = [decision.node for _, decision in explanation.decisions()]
        close = difflib.get_close_matches(name, known, n=3)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise TargetError(
            f"no tensor {name!r} in this record: expected the name of an FX node that computes "
            f"something, or file:line of the model.{hint}"
        )
    return found


def why(explanation: Explanation, graph: ExplainedGraph, decision: Decision) -> str:
    """What was decided about one tensor under each policy, why, and at what price."""
    fact = graph.facts[decision.node]
    paragraphs = [
        [_what(fact)],
        [_decided(explanation, graph, decision, policy) for policy in graph.sides],
        [*_price(explanation, decision), *_together(graph, decision), *_memory(decision)],
        list(_rounding(explanation, decision)),
        list(_pin(explanation, graph, decision)),
    ]
    return "\n".join(" ".join(sentences) for sentences in paragraphs if sentences)


def _what(fact: Node) -> str:
    where = f" in {fact.module}" if fact.module else ""
    layer = f" ({fact.layer})" if fact.layer else ""
    line = f", {short_source(fact.source)}" if fact.source else ""
    size = f"{type_text(fact)}, {size_text(fact.bytes)}"
    return f"{fact.name} is {fact.op}{where}{layer}{line}: {size}."


def _decided(
    explanation: Explanation, graph: ExplainedGraph, decision: Decision, policy: str
) -> str:
    side, node = graph.sides[policy], decision.node
    rule = decision.rules[policy]
    reason = RULES[rule]
    if rule == "needed" and decision.needed_by:
        reason += f" ({_some(decision.needed_by)})"
    if rule == "absent":
        return f"Under {policy} {reason}."
    if rule in ("input", "extern"):
        return f"Under {policy} it is in memory, because {reason}."
    readers = side.readers.get(node, [])
    computers = side.computers.get(node, [])
    if node in side.stored:
        read = f" and read by {_count(len(readers), 'kernel')}" if readers else ""
        return f"Under {policy} it is written to memory{read}, because {reason}."
    if len(computers) > 1:
        return f"Under {policy} {len(computers)} kernels compute it anew, because {reason}."
    if computers:
        return f"Under {policy} it stays inside of the one kernel that needs it, because {reason}."
    return f"Under {policy} no kernel needs it by itself."


def _price(explanation: Explanation, decision: Decision) -> Iterator[str]:
    if decision.stored_bytes is None or decision.inlined_bytes is None:
        return
    yield (
        f"With everything else as {explanation.priced} has it, all fused kernels move "
        f"{size_text(decision.stored_bytes)} with it in memory and "
        f"{size_text(decision.inlined_bytes)} with it recomputed: "
        f"{_saving(decision.saves)}."
    )
    alone = decision.alone_saves
    first = explanation.policies[0]
    if alone is not None and first != explanation.priced:
        yield f"In the kernels of {first}, by itself, {_saving(alone)}."


def _saving(saves: int) -> str:
    if saves == 0:
        return "both ways cost the same"
    return f"{'storing' if saves > 0 else 'inlining'} it saves {size_text(abs(saves))}"


def _together(graph: ExplainedGraph, decision: Decision) -> Iterator[str]:
    group = graph.group_of.get(decision.node)
    if group is not None and len(group.nodes) > 1:
        way = "storing" if group.saves > 0 else "inlining"
        yield (
            f"It is one of {len(group.nodes)} that are decided alike in layers of one class; "
            f"{way} all of them saves {size_text(abs(group.saves))}."
        )


def _memory(decision: Decision) -> Iterator[str]:
    if decision.peak_change:
        way = "higher" if decision.peak_change > 0 else "lower"
        size = size_text(abs(decision.peak_change))
        yield f"The peak memory is {size} {way} where it is stored."


def _rounding(explanation: Explanation, decision: Decision) -> Iterator[str]:
    if decision.rounding == "fma":
        yield (
            "Inlined, the device may contract it with a sum that reads it and round once "
            "(FMA); stored, it is rounded by itself."
        )
    elif decision.rounding:
        yield (
            f"Eager rounds it to {decision.rounding}. Stored, its readers see that number; "
            "inlined, they go on with more digits."
        )
    if decision.rounded:
        yield f"Under {explanation.priced} the kernel that computes it uses it rounded, too."
    if decision.held:
        yield "Upstream would have folded this cast away; the plan keeps it."


def _pin(explanation: Explanation, graph: ExplainedGraph, decision: Decision) -> Iterator[str]:
    pin = pin_of(graph, decision, explanation.priced)
    if pin:
        yield f"To pin it that way: {pin}"


def _some(names: Sequence[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
