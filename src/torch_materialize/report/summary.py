"""The verdict and what changed, as every command prints them first."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from ..results.changes import (
    Changes,
    FamilyChange,
    LineChange,
    ModuleChange,
    TensorChange,
    changes_of,
    family_changes,
)
from ..results.explanation import Explanation
from ..results.headline import plural, short_source, signed_text, size_text
from ..results.verdict import Verdict, verdict_of
from .tables import figures, plain_table, say, show, words

__all__ = ["print_changes", "print_families", "print_verdict"]


def print_verdict(explanation: Explanation, console: Console) -> Verdict:
    """Prints what a person wants to know first, then what to type next."""
    verdict = verdict_of(explanation)
    say(console, f"{verdict.target}: {' '.join(verdict.sentences())}")
    steps = verdict.steps()
    if steps:
        table = Table.grid(padding=(0, 2, 0, 0))
        words(table, "", "")
        for word, what in steps.items():
            table.add_row(word, what, style="none")
        console.print(table, markup=False, highlight=False)
    return verdict


def print_changes(explanation: Explanation, console: Console, top: int, policy: str = "") -> None:
    """Prints what the policy decides otherwise, by line of the model's code: ``top`` lines."""
    changes = changes_of(explanation, policy)
    if changes.policy == changes.first:
        return
    if not changes.lines:
        say(console, f"\n`{changes.policy}` stores the same tensors as {changes.first}.")
        return
    show(console, _table(changes, top))


def _table(changes: Changes, top: int) -> Table:
    table = plain_table(f"What {changes.policy} changes")
    words(table, "line of the model, and where it runs")
    words(table, "tensors")
    if changes.has_shares:
        figures(table, "saves")
    for line in changes.lines[:top]:
        tensors = "\n".join(_ways(line.tensors))
        _row(table, changes, _line(line), tensors, line.saves)
    left = changes.lines[top:]
    if left and changes.has_shares:
        saves = sum(line.saves for line in left)
        _row(table, changes, plural(len(left), "more line"), "", saves)
    if changes.has_shares:
        if changes.fused_otherwise:
            _row(table, changes, changes.rest_text, "", changes.fused_otherwise)
        if len(changes.lines) > 1 or changes.fused_otherwise:
            _row(table, changes, "all", "", changes.saved)
    return table


def _row(table: Table, changes: Changes, where: str, tensors: str, saves: int) -> None:
    table.add_row(where, tensors, *([signed_text(saves)] if changes.has_shares else []))


def _line(line: LineChange) -> str:
    source = short_source(line.source, 1) or "unknown line"
    first = f"{source}  {line.text}" if line.text else source
    return "\n".join([first, *(f"  {where}" for where in map(_module, line.modules) if where)])


def _module(module: ModuleChange) -> str:
    times = f" x {module.modules}" if module.modules > 1 else ""
    layer = f"{module.layer}{times}" if module.layer else times.strip()
    return f"{module.module}: {layer}" if module.module and layer else module.module or layer


def _ways(tensors: tuple[TensorChange, ...]) -> Iterator[str]:
    """``3 stored, not inlined``: what was decided otherwise, and of how many."""
    found: dict[tuple[str, str], int] = {}
    for one in tensors:
        found[one.before, one.after] = found.get((one.before, one.after), 0) + 1
    for (before, after), number in found.items():
        yield f"{number} {after}, not {before}"


def print_families(explanation: Explanation, console: Console, top: int, policy: str = "") -> None:
    """Prints the kernel families that move other bytes, a line each, and the rest in one."""
    if (policy or explanation.priced) == explanation.policies[0]:
        return
    rows = family_changes(explanation, policy)
    console.print()
    changed = [row for row in rows if row.saves or row.before.kernels != row.after.kernels]
    for row in changed[:top]:
        say(console, _family(row, explanation))
    if len(changed) > top:
        left = changed[top:]
        change = _signed(-sum(row.saves for row in left))
        say(console, f"{plural(len(left), 'more kernel family')}: {change}")
    same = [row for row in rows if row not in changed]
    if same:
        names = [_named(row.family, row.after.kernels) for row in same[:3]]
        names += [plural(len(same) - 3, "more family")] if len(same) > 3 else []
        moved = size_text(sum(row.after.bytes for row in same))
        say(console, f"Unchanged kernels: {', '.join(names)}; {moved}.")


def _family(row: FamilyChange, explanation: Explanation) -> str:
    change = _signed(-row.saves)
    if row.before.kernels != row.after.kernels:
        after = plural(row.after.kernels, "kernel")
        return f"{row.family}: {row.before.kernels} to {after}, {change}"
    kernels = row.before.kernels
    parts = [
        f"{verb} {_each(before, kernels, explanation)} to {_each(after, kernels, explanation)}"
        for verb, before, after in (
            ("reads", row.before.read_bytes, row.after.read_bytes),
            ("writes", row.before.write_bytes, row.after.write_bytes),
        )
        if before != after
    ]
    unit = " activations" if explanation.unit_bytes else ""
    return f"{_named(row.family, kernels)}: {' and '.join(parts)}{unit} a kernel, {change}"


def _signed(change: int) -> str:
    return f"+{size_text(change)}" if change > 0 else signed_text(change)


def _named(family: str, kernels: int) -> str:
    return f"{family} x {kernels}" if kernels > 1 else family


def _each(size: int, kernels: int, explanation: Explanation) -> str:
    """Bytes of one kernel in the mean: in activations where the target has such a unit."""
    mean = size / kernels if kernels else 0.0
    if explanation.unit_bytes:
        return f"{mean / explanation.unit_bytes:.3g}"
    return size_text(round(mean))
