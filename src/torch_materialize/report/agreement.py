"""An agreement for the terminal: the verdict, each way beside eager, where differences arise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..core.ways import CUTS, PIECES, WHOLE
from ..results.agreement import Agreement, Arises, Compared, Way
from ..results.headline import plural, short_source
from ..results.verdict import seconds_text
from .tables import figures, plain_table, say, show, words

__all__ = ["print_agreement", "sentences"]


# Share of equal elements from which on a policy is worth being named as the next step.
_NEAR = 0.99


def print_agreement(
    found: Agreement, console: Console, top: int = 8, verbose: bool = False
) -> None:
    """Prints what agrees with eager; ``verbose`` adds the tensors that differ, ``top`` a way."""
    say(console, f"{found.target}: {' '.join(sentences(found))}")
    command = _next(found)
    if command:
        say(console, f"Next  {command}")
    show(console, _ways(found))
    _print_arises(found, console)
    if verbose:
        for way in found.ways:
            if not way.as_whole:
                show(console, _tensors(way, top))
    console.print()
    say(console, _made(found), "dim")


def sentences(found: Agreement) -> Iterator[str]:
    """The verdict: what has eager's bits, what stock has, what cutting changes."""
    what = "outputs and gradients" if found.training else "outputs"
    if not found.eager_repeats:
        yield (
            "Eager itself, run twice, does not give the same bits, so that nothing below is a "
            "compiler's doing alone."
        )
    same = [way for way in found.ways if way.is_same]
    if same:
        yield f"{_list(list(map(_name, same)))} gave eager's {what}, bit for bit."
    else:
        best = max(found.ways, key=_nearness)
        yield f"No way gave eager's {what} bit for bit; nearest is {_name(best)}: {_far(best)}."
    stock = found.ways[0]
    if stock not in same:
        yield f"{_name(stock)}: {_far(stock)}."
    yield from _cut(found)


def _cut(found: Agreement) -> Iterator[str]:
    pieces = [way for way in found.ways if way.how == PIECES]
    for is_same in (True, False):
        names = [f"`{way.policy}`" for way in pieces if way.as_whole is is_same]
        if names:
            verb = "gives" if len(names) == 1 else "give"
            bits = "the same bits" if is_same else "other bits"
            yield f"{_list(names)} {verb} {bits} whole and in pieces."


def _nearness(way: Way) -> tuple[float, float]:
    gradients = 1.0 if way.gradients is None else way.gradients.share
    return min(way.outputs.share, gradients), way.outputs.share


def _name(way: Way) -> str:
    return f"`{way.policy}`" if way.how == WHOLE else f"`{way.policy}` in pieces"


def _far(way: Way) -> str:
    return f"{_parts(way.outputs, 'outputs')}" + (
        "" if way.gradients is None else f"; {_parts(way.gradients, 'gradients')}"
    )


def _parts(one: Compared, what: str) -> str:
    if one.is_same:
        return f"all {what} equal"
    text = f"{_share(one)} of the {what}' elements equal, {_apart(one)} apart at most"
    if what == "outputs" and one.rows_equal < one.rows:
        text += f", the largest element elsewhere in {_lost(one)} rows"
    return text


def _lost(one: Compared) -> str:
    return f"{one.rows - one.rows_equal} of {one.rows}"


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _share(one: Compared) -> str:
    """Never 100% where something differs."""
    if one.is_same:
        return "100%"
    return f"{math.floor(one.share * 1e4) / 100:.2f}%"


def _apart(one: Compared) -> str:
    return "0" if one.is_same else f"{one.largest:.3g}"


def _next(found: Agreement) -> str:
    """What to type to have the way that agrees, where it is not what one has without us."""
    wholes = [way for way in found.ways if way.how == WHOLE]
    best = max(wholes, key=_nearness)
    is_near = min(_nearness(best)) >= _NEAR
    if best.policy == wholes[0].policy or _nearness(best) <= _nearness(wholes[0]) or not is_near:
        return ""
    return f'torch.compile(model, options=tm.options("{best.policy}"))'


def _ways(found: Agreement) -> Table:
    table = plain_table("Beside eager")
    words(table, "policy", "")
    columns: dict[str, Callable[[Way], str]] = {
        "equal": lambda way: _share(way.outputs),
        "apart": lambda way: _apart(way.outputs),
    }
    if any(way.outputs.rows for way in found.ways) and not found.training:
        columns["argmax"] = lambda way: f"{way.outputs.rows_equal}/{way.outputs.rows}"
    if found.training:
        columns["gradients"] = lambda way: _share(way.gradients) if way.gradients else ""
        columns["apart "] = lambda way: _apart(way.gradients) if way.gradients else ""
    if found.rounds:
        columns["time"] = lambda way: _time(way.of_stock)
    figures(table, *columns)
    if found.rounds:
        empty = [""] * (len(columns) - 1)
        table.add_row("eager", "", *empty, _time(found.eager_of_stock))
    for way in found.ways:
        where = WHOLE if way.how == WHOLE else plural(way.graphs, "piece")
        table.add_row(way.policy, where, *(cell(way) for cell in columns.values()))
    caption = "Equal: elements with eager's bits. Apart: the largest difference."
    if "argmax" in columns:
        caption += " Argmax: rows whose largest element stands where eager's does."
    if found.rounds:
        caption += (
            f" Time: median ratio to stock, whole ({seconds_text(found.ways[0].seconds)}), of "
            f"{plural(found.rounds, 'round')}; stock timed twice differs by {found.noise:.0%}, "
            f"and {found.load:.1f} processes wanted to run."
        )
    table.caption = caption
    return table


def _time(of_stock: tuple[float, ...]) -> str:
    return f"x{of_stock[1]:.2f}" if of_stock else ""


def _print_arises(found: Agreement, console: Console) -> None:
    groups: dict[Arises, list[Way]] = {}
    for way in found.ways:
        for one in way.arises:
            groups.setdefault(one, []).append(way)
    if not groups:
        return
    console.print()
    say(console, "Where the first difference to eager arises", "bold")
    for one, ways in groups.items():
        say(console, _list(list(map(_name, ways))))
        for line in _place(one):
            console.print(Padding(Text(line), (0, 0, 0, 2)), highlight=False)
    say(console, _METHOD, "dim")


_METHOD = (
    "The shortest run of operators that is not eager's, compiled as the model is: from the start "
    "of its graph, for gradients from the end. What crosses the end of a run is stored there and "
    "may not be in the whole model, so that the whole may differ earlier."
)


def _place(one: Arises) -> Iterator[str]:
    graph = f" of graph {one.graph}" if one.graph > 1 else ""
    whose = "backward of " if one.direction == "backward" else ""
    module = ": ".join(filter(None, [one.module, one.layer]))
    inside = f", in {module}" if module else ""
    yield f"{whose}{one.operator}, operator {one.place} of {one.operators}{graph}{inside}"
    if one.source:
        yield f"{short_source(one.source, 1)}  {one.text}"
    steps = f" ({plural(one.steps, 'step')} of its type)" if one.steps >= 0 else ""
    what = "the gradient of " if one.direction == "backward" else ""
    yield f"{what}{one.value}, {one.type}: {one.differ} of {one.elements} elements differ"
    yield f"eager {one.eager}, compiled {one.compiled}: {one.largest:.3g} apart{steps}"
    if one.alone is not None:
        yield (
            "It differs when compiled alone, too: computed in another way or order."
            if one.alone
            else "It agrees when compiled alone: what it is fused with decides, by digits that "
            "are not rounded or by the order of a sum."
        )


def _tensors(way: Way, top: int) -> Table:
    table = plain_table(f"Tensors that differ under {way.policy}, {way.how}")
    words(table, "tensor")
    figures(table, "elements", "equal", "largest difference")
    rows = list(way.outputs.differing.items())
    rows += [] if way.gradients is None else list(way.gradients.differing.items())
    for name, one in rows[:top]:
        share = math.floor(one.equal / one.elements * 1e4) / 100 if one.elements else 0.0
        table.add_row(name, str(one.elements), f"{share:.2f}%", f"{one.largest:.3g}")
    if rows[top:]:
        table.add_row(plural(len(rows) - top, "more tensor"), "", "", "")
    return table


def _made(found: Agreement) -> str:
    parts = [f"Run on {found.device}, {plural(found.graphs, 'Dynamo graph')}"]
    parts.append(f"pieces: {CUTS[found.cut]}" if found.cut else "no place to cut it")
    parts += ["with gradients"] if found.training else []
    if not found.graph_repeats:
        parts.append("Dynamo's graph, run eagerly, does not give eager's bits")
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    return f"{'; '.join(parts)}. {versions}."
