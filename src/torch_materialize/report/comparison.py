"""A comparison for the terminal: totals first, then what differs, then the kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..core.traffic import Difference, Traffic, differences, most_read
from ..results.explanation import Explanation
from ..results.headline import place_text, size_text

__all__ = ["plain_table", "print_comparison", "totals_table"]


def plain_table(title: str) -> Table:
    """A table without frames, as all of ours look."""
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )


def totals_table(totals: Mapping[str, Traffic], **more: Mapping[str, str]) -> Table:
    """The fused kernels under each policy, held against the first; ``more`` adds columns."""
    table = plain_table("Fused kernels")
    table.add_column("policy", no_wrap=True)
    for heading in ("kernels", "read", "written", "moved", "of first", *more):
        table.add_column(heading, justify="right", no_wrap=True)
    base = next(iter(totals.values())).bytes
    for policy, total in totals.items():
        table.add_row(
            policy,
            str(total.kernels),
            size_text(total.read_bytes),
            size_text(total.write_bytes),
            size_text(total.bytes),
            f"x{total.bytes / base:.3f}" if base else "-",
            *(words[policy] for words in more.values()),
        )
    return table


def print_comparison(comparison: Explanation, console: Console, top: int = 8) -> None:
    """Prints everything a reader needs to judge the policies; ``top`` rows of each list."""
    place = place_text(comparison)
    nodes = "+".join(str(g.nodes) for g in comparison.graphs)
    console.print(f"[bold]{comparison.target}[/bold] on {place}, {nodes} nodes")
    console.print(Text(_how(comparison), style="dim"))
    console.print(_totals(comparison))
    console.print(_differing(comparison, top))
    for policy in comparison.policies:
        console.print(_kernels(comparison, policy, top))


def _how(comparison: Explanation) -> str:
    path = {
        "dynamo": "the whole torch.compile pipeline, on fake CPU tensors",
        "make_fx": "make_fx alone, straight to post-grad: no joint-graph or post-grad passes",
    }[comparison.tracing]
    versions = ", ".join(f"{name} {version}" for name, version in comparison.versions.items())
    return f"Traced through {path}. {versions}."


def _totals(comparison: Explanation) -> Table:
    totals = {policy: comparison.traffic(policy) for policy in comparison.policies}
    bounds = {policy: comparison.bound(policy) for policy in totals}
    unit = comparison.unit_bytes
    table = totals_table(
        totals,
        units={p: f"{total.bytes / unit:.1f}" if unit else "-" for p, total in totals.items()},
        least={p: "-" if size is None else _amount(size, unit) for p, size in bounds.items()},
        time={policy: f"{comparison.seconds[policy]:.1f} s" for policy in totals},
    )
    notes = []
    if unit:
        notes.append(f"One unit is one activation, {size_text(unit)}.")
    if any(bound is not None for bound in bounds.values()):
        notes.append("Least: no choice moves fewer bytes with that policy's kernels.")
    if notes:
        table.caption = " ".join(notes)
        table.caption_justify = "left"
    return table


def _amount(size: float, unit: int) -> str:
    return f"{size / unit:.1f}" if unit else size_text(int(size))


def _differing(comparison: Explanation, top: int) -> Table | Text:
    first = comparison.policies[0]
    sides = [{p: side.graph for p, side in g.sides.items()} for g in comparison.graphs]
    found = sorted((one for s in sides for one in differences(s, first)), key=lambda one: one.node)
    if not found:
        return Text("Every policy materializes the same tensors.\n")
    table = plain_table(f"Tensors decided differently: {len(found)}")
    table.add_column("tensor", overflow="fold")
    table.add_column("type")
    table.add_column("size", justify="right")
    table.add_column("materialized by")
    table.add_column("inlined by")
    for row in list(_grouped(found))[:top]:
        table.add_row(*row)
    return table


def _grouped(found: list[Difference]) -> Iterator[tuple[str, ...]]:
    """One row for all tensors of equal type, shape and decision: layers repeat."""

    def alike(difference: Difference) -> tuple[object, ...]:
        t = difference.tensor
        key = (t.dtype, t.shape, difference.materialized_by, difference.inlined_by)
        return (-t.bytes, *key)

    for _, rows in groupby(sorted(found, key=alike), key=alike):
        group = list(rows)
        first = group[0]
        more = f" and {len(group) - 1} more" if len(group) > 1 else ""
        shape = "x".join(first.tensor.shape)
        yield (
            f"{first.node}{more}",
            f"{first.tensor.dtype}[{shape}]",
            size_text(first.tensor.bytes),
            first.materialized_by,
            first.inlined_by,
        )


def _kernels(comparison: Explanation, policy: str, top: int) -> Table:
    table = plain_table(f"Most-read kernels under {policy}")
    table.add_column("kernel", overflow="fold")
    table.add_column("kind")
    table.add_column("inputs", justify="right")
    table.add_column("read", justify="right")
    table.add_column("written", justify="right")
    for kernel in most_read((g.sides[policy].graph for g in comparison.graphs), top):
        table.add_row(
            kernel.name,
            kernel.kind,
            str(len(kernel.reads)),
            size_text(kernel.read_bytes),
            size_text(kernel.write_bytes),
        )
    return table
