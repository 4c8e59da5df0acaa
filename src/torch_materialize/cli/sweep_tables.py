"""A sweep for the terminal: the headline of each policy, what failed, then a row per graph.

Made to read well in 80 columns, through a pipe and without colour.
"""

from __future__ import annotations

from collections.abc import Collection

from rich.console import Console
from rich.table import Table

from ..core.devices import named
from ..core.story import OPEN
from ..report.tables import figures, plain_table, say, show, words
from ..results.headline import plural, size_text
from ..sweep.rows import BASE, GraphRow, ModelRow
from ..sweep.run import Sweep
from ..sweep.spec import Model
from ..sweep.verdict import verdict_of

__all__ = ["ended_text", "print_corpus", "print_graphs", "print_sweep"]


def print_sweep(sweep: Sweep, console: Console) -> None:
    """Prints the sweep, what matters most first."""
    verdict = verdict_of(sweep)
    say(console, " ".join(verdict.sentences()))
    command = verdict.next_command()
    if command:
        say(console, f"Next  {command}")
    for table in (
        _headline(sweep) if sweep.graphs else None,
        _failures(sweep.failures()) if sweep.failures() else None,
        _rows(sweep) if sweep.graphs else None,
    ):
        if table is not None:
            show(console, table)
    device = named(sweep.settings.device)
    place = f"planned {device.title}" if device.is_gpu else "this CPU"
    ended = len({model.name for model in sweep.models})
    what = f"{plural(len(sweep.graphs), 'graph')} of {plural(ended, 'model')} on {place}"
    versions = ", ".join(f"{name} {version}" for name, version in sweep.versions.items())
    console.print()
    say(console, f"{what}, begun on {sweep.date}. {versions}.", "dim")


def print_graphs(sweep: Sweep, console: Console) -> None:
    """Prints the rows of captured graphs, with the figures of each policy side by side."""
    say(console, " ".join(verdict_of(sweep).sentences()))
    for table in (
        _headline(sweep) if sweep.graphs else None,
        _failures(sweep.failures()) if sweep.failures() else None,
        _details(sweep) if sweep.graphs else None,
    ):
        if table is not None:
            show(console, table)
    console.print()
    versions = ", ".join(f"{name} {version}" for name, version in sweep.versions.items())
    place = named(sweep.settings.device).title
    say(console, f"{plural(len(sweep.graphs), 'graph')} on {place}. {versions}.", "dim")


def _details(sweep: Sweep) -> Table:
    others = [policy for policy in sweep.settings.policies if policy != BASE]
    table = plain_table("Graphs")
    words(table, "graph")
    figures(table, "nodes", BASE, *others, "bound", "kernels", "time")
    for row in sweep.graphs:
        bound = next(reversed(list(row.bounds.values())), None)
        base = row.bytes[BASE]
        table.add_row(
            f"{row.name} ({row.index + 1})" if row.index else row.name,
            str(row.nodes),
            size_text(base),
            *(f"x{row.ratio(policy):.3f}" for policy in others),
            "-" if bound is None or not base else f"x{bound / base:.3f}",
            "/".join(str(count) for count in row.kernels.values()),
            f"{sum(row.seconds.values()):.1f} s",
        )
    table.caption = (
        "Bytes that fused kernels read and write, those of the policies and the certified least "
        f"as a share of {BASE}'s. Kernels: under each policy. Time: of all. --json has each figure."
    )
    return table


def _headline(sweep: Sweep) -> Table:
    table = plain_table("Bytes of the fused kernels against stock's")
    words(table, "policy")
    kept = any(row.kept for row in sweep.graphs)
    more = ("kept", "peak") if kept else ()
    figures(table, "geomean", "best", "worst", "worse", *more, "gap", "time", "slow")
    for policy in sweep.settings.policies:
        found = sweep.summary(policy)
        if found is None:
            continue
        median, most = found.seconds
        table.add_row(
            policy,
            f"x{found.geomean:.4f}",
            f"x{found.best:.3f}",
            f"x{found.worst:.3f}",
            f"{found.worse} of {found.graphs}",
            *map(_share, (found.kept, found.peak) if kept else ()),
            _percent(found.gap),
            f"{median:.2f} s",
            f"{most:.2f} s",
        )
    table.caption = (
        "Worse: graphs above stock by more than 0.1%. Gap: above the policy's certified bound, "
        "on 9 of 10 graphs at most. Time: trial lowerings and planning, the median; slow: what 9 "
        "of 10 do not exceed."
    )
    if kept:
        table.caption += (
            " Kept: by forwards for their backwards, in the geometric mean. Peak: of memory, where "
            "it is the highest against stock's."
        )
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"x{value:.3f}"


def _failures(models: Collection[ModelRow]) -> Table:
    table = plain_table(f"Not measured, or not wholly: {len(models)}")
    words(table, "model", "mode", "ended by", "because")
    for model in models:
        table.add_row(model.name, model.mode, model.status, model.message)
    return table


def _rows(sweep: Sweep) -> Table:
    others = [policy for policy in sweep.settings.policies if policy != BASE]
    table = plain_table("Graphs")
    words(table, "model", "kind")
    kept = any(row.kept for row in sweep.graphs)
    figures(table, "nodes", BASE, *others, *(("kept", "peak") if kept else ()), "gap", "time")
    for row in sweep.graphs:
        shares = (row.kept_ratio(others[-1]), row.peak_ratio(others[-1])) if kept else ()
        table.add_row(
            f"{row.name} ({row.index + 1})" if row.index else row.name,
            row.kind,
            str(row.nodes),
            size_text(row.bytes[BASE]),
            *(f"x{row.ratio(policy):.3f}" for policy in others),
            *map(_share, shares),
            _gap(row),
            f"{max(row.seconds.values()):.1f} s",
        )
    table.caption = (
        "Gap: of the last policy that has a bound; where most of it is due to a rule that refused "
        "a plan of fewer bytes, or to fusions that Inductor does not make, with that. Time: of the "
        "slowest policy."
    )
    if kept:
        table.caption += (
            f" Kept: by the forward for its backward; peak of memory: both {others[-1]} against "
            f"{BASE}."
        )
    return table


def _gap(row: GraphRow) -> str:
    known = [policy for policy in row.bytes if row.gap_percent(policy) is not None]
    if not known:
        return "left to stock" if row.left else _percent(None)
    gap, reason = row.gap_percent(known[-1]), row.gap_reason(known[-1])
    return f"{_percent(gap)}{f' {reason}' if reason not in ('', OPEN) else ''}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}%"


def ended_text(model: ModelRow, graphs: int) -> str:
    """One line of progress."""
    failed = f"{model.status}: {model.message}"
    what = plural(graphs, "graph") if model.status == "ok" else failed
    return f"{model.name} {model.mode}: {what}, {model.seconds:.0f} s"


def print_corpus(models: Collection[Model], console: Console) -> None:
    """Prints the models that can be swept."""
    table = plain_table(f"Models: {len(models)}")
    words(table, "name", "family", "modes", "package")
    for model in models:
        table.add_row(model.name, model.family, ", ".join(model.modes), model.package)
    show(console, table)
