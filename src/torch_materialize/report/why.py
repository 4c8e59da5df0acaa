"""One tensor's story in sentences."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from ..core.story import RULES, TensorChoice
from ..errors import TargetError
from ..results.explanation import ExplainedGraph, Explanation, Node
from ..results.headline import (
    NOT_PRICED,
    pin_line,
    pin_of,
    plural,
    short_source,
    signed_text,
    size_text,
    type_text,
)

__all__ = ["find_tensor", "why"]


def find_tensor(explanation: Explanation, name: str) -> list[tuple[ExplainedGraph, TensorChoice]]:
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


def why(explanation: Explanation, graph: ExplainedGraph, decision: TensorChoice) -> str:
    """What was decided about one tensor under each policy, why, and at what price."""
    fact = graph.facts[decision.node]
    paragraphs = [
        [_what(fact)],
        [_decided(explanation, graph, decision, policy) for policy in graph.sides],
        list(_share(explanation, graph, decision)),
        [*_price(explanation, graph, decision), *_memory(decision)],
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
    explanation: Explanation, graph: ExplainedGraph, decision: TensorChoice, policy: str
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
        read = f" and read by {plural(len(readers), 'kernel')}" if readers else ""
        return f"Under {policy} it is written to memory{read}, because {reason}."
    if len(computers) > 1:
        return f"Under {policy} {len(computers)} kernels compute it anew, because {reason}."
    if computers:
        return f"Under {policy} it stays inside of the one kernel that needs it, because {reason}."
    return f"Under {policy} no kernel needs it by itself."


def _share(
    explanation: Explanation, graph: ExplainedGraph, decision: TensorChoice
) -> Iterator[str]:
    """What the decision saves, with those alike, against the first policy."""
    priced, first = explanation.priced, explanation.policies[0]
    shares = graph.saves.get(priced, {})
    if decision.node not in shares:
        return
    saved = shares[decision.node]
    yield (
        f"That saves {signed_text(saved)} against {first}: its share of the "
        f"{signed_text(graph.saved(priced))} that {priced} saves in all."
    )
    alike, together = graph.saved_together.get(priced, {}).get(decision.node, (0, 0))
    if alike > 1:
        all_save = signed_text(together)
        yield f"It is one of {alike} that are decided alike; they save {all_save} together."


def _price(
    explanation: Explanation, graph: ExplainedGraph, decision: TensorChoice
) -> Iterator[str]:
    if not explanation.prices:
        yield NOT_PRICED
    if decision.stored_bytes is None or decision.inlined_bytes is None:
        return
    stored, gain = _is_stored(explanation, graph, decision), _gain(explanation, graph, decision)
    way = "recomputed wherever it is needed" if stored else "written to memory"
    yield (
        f"If this one alone were {way}, with everything else as {explanation.priced} has it, all "
        f"fused kernels would move {_change(-gain)}, by the planner's model."
    )
    if gain > 0:
        yield from graph.refusals
        if not graph.refusals:
            yield "No trial lowering found the kernels that the model expects there."
    alone, first = decision.alone_saves, explanation.policies[0]
    if alone is not None and first != explanation.priced:
        yield f"In the kernels of {first}, with nothing else changed, {_saving(alone)}."


def _is_stored(explanation: Explanation, graph: ExplainedGraph, decision: TensorChoice) -> bool:
    """Whether the priced policy writes it, so that flipping it would inline it."""
    return decision.node in graph.sides[explanation.priced].stored


def _gain(explanation: Explanation, graph: ExplainedGraph, decision: TensorChoice) -> int:
    """Bytes that the other way of this one alone would save; negative where it costs some."""
    if not decision.open:
        return 0
    return -decision.saves if _is_stored(explanation, graph, decision) else decision.saves


def _change(size: int) -> str:
    if size == 0:
        return "as many bytes as now"
    return f"{size_text(abs(size))} {'more' if size > 0 else 'less'} than now"


def _saving(saves: int) -> str:
    if saves == 0:
        return "both ways cost the same"
    return f"{'storing' if saves > 0 else 'inlining'} it saves {size_text(abs(saves))}"


def _memory(decision: TensorChoice) -> Iterator[str]:
    if decision.peak_change:
        way = "higher" if decision.peak_change > 0 else "lower"
        size = size_text(abs(decision.peak_change))
        yield f"The peak memory is {size} {way} where it is stored."


def _rounding(explanation: Explanation, decision: TensorChoice) -> Iterator[str]:
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


def _pin(explanation: Explanation, graph: ExplainedGraph, decision: TensorChoice) -> Iterator[str]:
    pin = pin_of(graph, decision, explanation.priced)
    if not pin:
        return
    yield f"To pin it as {explanation.priced} has it: {pin}"
    if _gain(explanation, graph, decision) > 0:
        stored = _is_stored(explanation, graph, decision)
        yield f"\nTo have it the other way all the same: {pin_line(graph, decision, not stored)}"


def _some(names: Sequence[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
