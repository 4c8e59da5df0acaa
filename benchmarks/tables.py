"""The one table maker: result files to Markdown, and the pages of docs/results/ from their index.

    python benchmarks/tables.py results/bench-*.json   # the tables of these files
    python benchmarks/tables.py --pages                # docs/results/*.md, from results/index.toml

Every figure stands in a result file; what was not measured has no cell.  Of files of one kind that
are named together, a row that several have counts as in the last of them; that of a sweep, for each
policy that it has there.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch_materialize.core.story import OPEN
from torch_materialize.results.base import read_json
from torch_materialize.sweep.file import SWEEP
from torch_materialize.sweep.rows import GraphRow
from torch_materialize.sweep.run import Sweep
from torch_materialize.sweep.spec import KINDS
from torch_materialize.sweep.verdict import verdict_of

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
_STOCK, _AGAIN, _PLAN = "stock", "stock again", "plan"
#: Ways that a table of times shows; a file may have more, which were variants of a day.
_WAYS = ("traffic", "plan", "plan:numerics=stock", "plan:numerics=eager", "tune", "eager")
_SMALL_GAP = 2.0  # percent above the bound
# Share of a graph's bytes from which on a mechanism of the search counts as having gained them.
_GAIN = 0.002

Files = Mapping[str, Any]  # name -> its content
Lines = Iterator[str]


def line(cells: Iterable[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def head(*titles: str) -> Lines:
    yield line(titles)
    yield "|" + "---|" * len(titles)


def short(torch: str) -> str:
    """A version of torch without what follows its plus."""
    return torch.partition("+")[0]


def geomean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


# Bytes -------------------------------------------------------------------------------------------


def sweeps(files: Files, wanted: str = "") -> Lines:
    """Graphs of the corpus by torch and kind; ``wanted`` is one of the kinds."""
    every = [
        SWEEP.load(RESULTS / name if not Path(name).exists() else Path(name)) for name in files
    ]
    yield from head(
        "torch", "graphs", "policy", "geomean", "best", "worst", "worse than stock",
        f"gap to the bound at most {_SMALL_GAP:.0f}%",
    )  # fmt: skip
    large: list[tuple[str, GraphRow]] = []
    for torch in sorted({short(sweep.versions["torch"]) for sweep in every}):
        own = [sweep for sweep in every if short(sweep.versions["torch"]) == torch]
        for name, kinds in {**KINDS, "all": sum(KINDS.values(), ())}.items():
            if not wanted or name == wanted:
                yield from _of_policies(torch, name, own, kinds)
        rows = [row for sweep in own for row in sweep.graphs]
        large += [(torch, row) for row in _last(rows, _PLAN) if _is_above(row, wanted)]
    yield from _above_bound(large)


def _is_above(row: GraphRow, wanted: str) -> bool:
    """Whether a wanted graph is further above its bound, and its file says why."""
    if (wanted and row.kind not in KINDS[wanted]) or not row.gaps.get(_PLAN):
        return False
    return (row.gap_percent(_PLAN) or 0) > _SMALL_GAP


def _above_bound(large: Sequence[tuple[str, GraphRow]]) -> Lines:
    """What each gap is due to: shares of the bound."""
    if not large:
        return
    rules = sorted({rule for _, row in large for rule in row.gaps[_PLAN]} - {OPEN})
    yield ""
    yield (
        "Graphs further above their bound, of those whose files say why: the plan of the fewest "
        "bytes that a rule refused, fusions that Inductor does not make, and what is open."
    )
    yield ""
    yield from head("torch", "graph", "plan of stock", "gap", *rules, OPEN)
    for torch, row in sorted(large, key=lambda one: -(one[1].gap_percent(_PLAN) or 0)):
        bound = row.bounds[_PLAN]
        parts = [row.gaps[_PLAN].get(rule, 0) / bound for rule in (*rules, OPEN)]
        shares = [f"{part:.1%}" if part else "" for part in parts]
        gap = f"{row.gap_percent(_PLAN):.1f}%"
        graph = f"{row.name} {row.kind} {row.index}"
        yield line([torch, graph, f"x{row.ratio(_PLAN):.3f}", gap, *shares])


def _of_policies(torch: str, name: str, own: Sequence[Sweep], kinds: Container[str]) -> Lines:
    """Of each policy the last row of every graph that has it: a sweep may be of some policies."""
    some = [row for sweep in own for row in sweep.graphs if row.kind in kinds]
    graphs = f"{name}, {len({_key(row) for row in some})}"
    policies = max((sweep.settings.policies for sweep in own), key=len)
    for policy in policies[1:]:
        rows = _last(some, policy)
        found = replace(own[0], graphs=rows).summary(policy) if rows else None
        if found is not None:
            shares = _shares(found.geomean, found.best, found.worst)
            yield line([torch, graphs, str(policy), *shares, str(found.worse), _gaps(rows, policy)])
            torch = graphs = ""
    if name == "training":
        yield from _of_steps(own[0], some, policies[1:])


def _of_steps(sweep: Sweep, some: Sequence[GraphRow], policies: Sequence[str]) -> Lines:
    """Forwards and backwards together: a model counts once."""
    title = f"training steps, {len({row.name for row in some})}"
    for policy in policies:
        found = verdict_of(replace(sweep, graphs=_last(some, policy)), policy)
        if found.models:
            shares = _shares(found.geomean, found.best[1], found.worst[1])
            yield line(["", title, str(policy), *shares, str(found.worse), ""])
            title = ""


def _shares(*ratios: float) -> list[str]:
    return [f"x{ratio:.3f}" for ratio in ratios]


def _last(rows: Iterable[GraphRow], policy: Any) -> tuple[GraphRow, ...]:
    last = {_key(row): row for row in rows if str(policy) in map(str, row.bytes)}
    return tuple(last.values())


def _key(row: GraphRow) -> tuple[str, str, int]:
    return row.name, row.kind, row.index


def _gaps(rows: Sequence[GraphRow], policy: Any) -> str:
    gaps = [gap for row in rows if (gap := row.gap_percent(policy)) is not None]
    small = sum(gap <= _SMALL_GAP for gap in gaps)
    return f"on {small} of {len(gaps)} ({small / len(gaps):.1%})" if gaps else ""


def comparisons(files: Files) -> Lines:
    """Targets of ``compare``, in units of one activation."""
    yield from head("target", "traced by", "torch", "stock", "traffic", "plan", "least", "kernels")
    for one in (one for data in files.values() for one in data):
        total = one["totals"]
        least = total["plan"]["bound_bytes"]
        kernels = " / ".join(str(total[policy]["fused_kernels"]) for policy in (_STOCK, "plan"))
        yield line(
            [one["target"], one["tracing"], short(one["versions"]["torch"])]
            + [f"{total[policy]['units']:.1f}" for policy in one["policies"]]
            + [f"{least / one['unit_bytes']:.1f}" if least else "", kernels]
        )


def vllm_bytes(files: Files) -> Lines:
    """What vLLM would compile: activations, fused kernels."""
    rows = [row for data in files.values() for row in data.get("models", data.get("rows", ()))]
    yield from head("device", "model", "cut", "tokens", "stock", "traffic", "plan")
    for row in rows:
        cells = [
            f"{row[policy]['bytes'] / row['unit_bytes']:.1f}, {row[policy]['kernels']}"
            for policy in (_STOCK, "traffic", "plan")
        ]
        yield line([row["device"], row["model"], row["cut"], str(row["tokens"]), *cells])


def ablations(files: Files) -> Lines:
    """What the search finds without each of its parts."""
    for name, data in files.items():
        rows = data["rows"]
        whole = [row["found"][""] for row in rows]
        ratio = geomean([one["bytes"] / one["stock"] for one in whole])
        yield f"`{name}`: {len(rows)} graphs, x{ratio:.4f} of stock's bytes,"
        yield f"{sum(one['rounds'] for one in whole)} trial lowerings."
        yield ""
        yield from head("without", "geomean", "trial lowerings", "move more", "move less")
        for part in dict.fromkeys(part for row in rows for part in row["found"] if part):
            tried = [row for row in rows if part in row["found"]]
            found = [row["found"][part] for row in tried]
            changes = {
                f"{row['name']} {row['mode']} {row['index']}": row["found"][part]["bytes"]
                / row["found"][""]["bytes"]
                for row in tried
            }
            more = {name: x for name, x in changes.items() if x > 1 + _GAIN}
            less = {name: x for name, x in changes.items() if x < 1 - _GAIN}
            ratio = geomean([one["bytes"] / one["stock"] for one in found])
            rounds = str(sum(one["rounds"] for one in found))
            of = "" if len(tried) == len(rows) else f" of {len(tried)} graphs"
            yield line([part, f"{ratio:.4f}{of}", rounds, _few(more, max), _few(less, min)])
        yield ""


def searches(files: Files) -> Lines:
    """What searches cost beside one lowering, by the commit that searched."""
    yield from head(
        "commit",
        "graphs",
        "of stock's bytes",
        "trial lowerings",
        "of one lowering",
        "it gains",
        "not",
    )
    for data in files.values():
        rows = data["searches"]
        for commit in dict.fromkeys(row["commit"] for row in rows):
            own = [row for row in rows if row["commit"] == commit]
            gains = [row for row in own if row["bytes"] < row["stock"]]
            rest = [row for row in own if row["bytes"] >= row["stock"]]
            ratio = f"x{geomean([row['bytes'] / row['stock'] for row in own]):.4f}"
            rounds = str(sum(row["rounds"] for row in own))
            shares = [_times(some) for some in (own, gains, rest)]
            yield line([commit, str(len(own)), ratio, rounds, *shares])


def _times(rows: Sequence[Mapping[str, Any]]) -> str:
    """What planning adds to one lowering, in the median.

    Before a trial lowering could be taken over it added a search.
    """
    found = [
        (row["planned_seconds"] / row["lowering_seconds"] - 1)
        if "planned_seconds" in row
        else row["search_seconds"] / row["lowering_seconds"]
        for row in rows
    ]
    return f"x{statistics.median(found):.2f}" if found else "-"


def _few(changes: Mapping[str, float], most: Callable[..., str]) -> str:
    """How many graphs, and the one that changes most."""
    if not changes:
        return ""
    name = most(changes, key=changes.__getitem__)
    more = f"{len(changes)}, most " if len(changes) > 1 else ""
    return f"{more}{name} x{changes[name]:.3f}"


# Time --------------------------------------------------------------------------------------------


def measured(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows of a file that say something: they have times, and were not withdrawn later."""
    return [row for row in data.get("rows", ()) if "ways" in row and "withdrawn" not in row]


def times(files: Files) -> Lines:
    """Each way's share of stock's time, with its interval, and bytes beside it."""
    machines = {data["machine"]["device"] for data in files.values()}
    rows = {}
    for data in files.values():
        where = f", {data['machine']['device']}" if len(machines) > 1 else ""
        for row in measured(data):
            note = row["note"] + where
            rows[_title(row), note] = {**row, "note": note}
    ways = [way for way in _WAYS if any(way in row["ways"] for row in rows.values())]
    yield from head("case", "stock ms", *ways, "noise", "MB stock / plan", "peak MB stock / plan")
    for row in rows.values():
        yield line(cells(row, ways))
    for name, data in files.items():
        for row in data.get("rows", ()):
            if "error" in row or "withdrawn" in row:
                yield f"\n`{name}`, {_title(row)}: {row.get('error', row.get('withdrawn'))}"
    if any(data.get("correctness") for data in files.values()):
        yield ""
        yield from answers(files)


def numerics(files: Files) -> Lines:
    """Time of each way to round as eager does, as a share of stock's in the same rounds."""
    rows = [(short(data["versions"]["torch"]), row) for data in files.values()
            for row in measured(data)]  # fmt: skip
    ways = list(dict.fromkeys(w for _, row in rows for w in row["ways"]))
    ways = [way for way in ways if way not in (_STOCK, _AGAIN)]
    yield from head("torch", "case", "stock ms", *ways, "noise", "load")
    for torch, row in rows:
        again = row["ways"][_AGAIN]["of_stock"]
        yield line(
            [torch, f"{_title(row)} ({row['note']})", f"{1e3 * row['ways'][_STOCK]['seconds']:.2f}"]
            + [_ratio(row["ways"].get(way)) for way in ways]
            + [f"{again['low']:.2f} to {again['high']:.2f}", f"{row['load_before']:.1f}"]
        )
    medians = [
        statistics.median(found) if found else None
        for way in ways
        for found in [[r["ways"][way]["of_stock"]["median"] for _, r in rows if way in r["ways"]]]
    ]
    cells = ["" if one is None else f"x{one:.3f}" for one in medians]
    yield line(["", f"median of {len(rows)}", "", *cells, "", ""])
    for name, data in files.items():
        for row in data["rows"]:
            if "error" in row:
                yield f"\n`{name}`, {_title(row)}: {row['error'].splitlines()[0]}"


def _title(row: Mapping[str, Any]) -> str:
    tokens = f", {row['tokens']} tokens" if row["tokens"] else ""
    return f"{row['name']}{tokens}, {row['part']}"


def cells(row: Mapping[str, Any], ways: Sequence[str]) -> list[str]:
    """One row: the case, stock's time, each way's share of it, noise, bytes, peak memory."""
    said = row.get("predicted", {})
    again = row["ways"].get(_AGAIN, {}).get("of_stock")
    moved = [said[way] for way in (_STOCK, "plan") if way in said]
    return [
        f"{_title(row)} ({row['note']})",
        f"{1e3 * row['ways'][_STOCK]['seconds']:.3f}",
        *(_ratio(row["ways"].get(way)) for way in ways),
        f"{again['low']:.2f} to {again['high']:.2f}" if again else "",
        " / ".join(f"{one['bytes'] / 1e6:.1f}" for one in moved),
        _peaks(row, moved),
    ]


def _ratio(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    ratio = found["of_stock"]
    return f"x{ratio['median']:.3f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def _peaks(row: Mapping[str, Any], said: Sequence[Mapping[str, Any]]) -> str:
    """Measured where a GPU measures it, the planner's estimate elsewhere (marked with ~)."""
    ways = [row["ways"][way] for way in (_STOCK, "plan") if way in row["ways"]]
    if all("max_memory_allocated" in one for one in ways):
        return " / ".join(f"{one['max_memory_allocated'] / 1e6:.1f}" for one in ways)
    return " / ".join(f"~{one['peak_estimate'] / 1e6:.1f}" for one in said)


def compiles(files: Files) -> Lines:
    """What a policy adds to a cold compile."""
    yield from head("case", "policy", "nodes", "stock s", "policy s", "planning s", "ratio (range)")
    rows = {}
    for data in files.values():
        rows |= {(name, data["policy"]): row for name, row in data["cases"].items()}
    for (name, policy), row in rows.items():
        ratio = (
            f"{row['median_ratio']:.3f} ({row['lowest_ratio']:.3f} to {row['highest_ratio']:.3f})"
        )
        each = [f"{row[key]:.2f}" for key in ("stock_seconds", "policy_seconds")]
        planning = f"{row['planning_seconds']:.2f}" if row.get("planning_seconds") else ""
        yield line(
            [
                name,
                policy,
                f"{row['nodes']:.0f}" if row.get("nodes") else "",
                *each,
                planning,
                ratio,
            ]
        )


def kept(files: Files) -> Lines:
    """What forwards keep for their backwards and what both move, against stock's.

    Each model of the first file, and the geometric means of all.
    """
    first = next(iter(files.values()))
    ways = dict.fromkeys(way for row in first["models"] for way in row["ways"] if way != _STOCK)
    yield from head("model", *(f"{way}: kept, moved" for way in ways))
    for row in first["models"]:
        yield line([row["name"], *(_kept_cell(_kept_share(row, way)) for way in ways)])
    of_torch: dict[str, list[Any]] = {}
    for data in files.values():
        of_torch.setdefault(short(data["torch"]), []).extend(data["models"])
    for torch, models in of_torch.items():
        means = []
        for way in ways:
            shares = filter(None, (_kept_share(row, way) for row in models))
            means.append([geomean(list(column)) for column in zip(*shares, strict=True)])
        label = f"torch {torch}: geometric mean of {len(models)}"
        yield line([label, *map(_kept_cell, means)])
    yield ""
    for torch, models in of_torch.items():
        yield from _beside_upstream(torch, models, first["budget"])


def _kept_share(row: Mapping[str, Any], way: str) -> tuple[float, float] | None:
    """Shares of stock's kept and moved bytes; None where a way has no choice for a model."""
    one, stock = row["ways"].get(way), row["ways"][_STOCK]
    return (one["kept"] / stock["kept"], one["bytes"] / stock["bytes"]) if one else None


def _kept_cell(share: Sequence[float] | None) -> str:
    return "x{:.3f}, x{:.3f}".format(*share) if share else "-"


def _beside_upstream(torch: str, models: Sequence[Mapping[str, Any]], budget: float) -> Lines:
    """What ours moves of what upstream's budget does, where it keeps as little."""
    ours, theirs = "plan, as much as upstream", f"upstream at {budget:g}"
    rows = [row["ways"] for row in models if ours in row["ways"]]
    if rows:
        shares = [ways[ours]["bytes"] / ways[theirs]["bytes"] for ways in rows]
        yield (
            f"Keeping no more than {theirs} does, ours moves x{geomean(shares):.3f} of its bytes "
            f"in the geometric mean of {len(shares)} models, at most x{max(shares):.3f} "
            f"(torch {torch})."
        )


def trained(files: Files) -> Lines:
    """Losses of a training run against stock's, what is kept and alive, measured and estimated."""
    yield from head(
        "torch", "way", "first and last loss", "from stock's, mean", "at the end",
        "kept, MB", "alive, MB", "estimated, MB",
    )  # fmt: skip
    for data in files.values():
        runs = data["trained"]
        for way, run in runs.items():
            far, at_end = apart(run["losses"], runs["stock"]["losses"])
            yield line(
                [
                    short(data["torch"]),
                    f"`{way}`" if way.startswith("plan") else way,
                    f"{run['losses'][0]:.4f}, {run['losses'][-1]:.4f}",
                    f"{far:.5f}",
                    f"{at_end:+.5f}",
                    f"{run['kept'] / 1e6:.1f}",
                    f"{run['alive'] / 1e6:.1f}",
                    f"{run['estimated'] / 1e6:.1f}" if run["estimated"] else "",
                ]
            )


def apart(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """How far the losses of two runs lie apart: in the mean of all steps, and of the last 20."""
    differences = [a - b for a, b in zip(one, other, strict=True)]
    last = differences[-20:]
    return sum(map(abs, differences)) / len(differences), sum(last) / len(last)


def starts(files: Files) -> Lines:
    """Cold and warm starts of vLLM engines; the last row of each file has the medians."""
    cold = "stock s", "plan s", "of it planning s", "plan of stock"
    yield from head("vLLM", "pair", *cold, "warm: stock s", "plan s", "plan of stock")
    for data in files.values():
        rows = [_started(pair[_STOCK], pair["plan"]) for pair in data["pairs"]]
        rows.append(tuple(map(statistics.median, zip(*rows, strict=True))))
        for number, row in enumerate(rows, 1):
            shown = [f"{x:.1f}" for x in row]
            for ratio in (3, 6):
                shown[ratio] = f"x{row[ratio]:.3f}"
            yield line([data["vllm"], str(number) if number < len(rows) else "median", *shown])


def _started(stock: Mapping[str, Any], plan: Mapping[str, Any]) -> tuple[float, ...]:
    """The row of one pair of engines: a cold start of each, then a warm one."""
    cold, warm = (
        [one["ready_seconds"] for one in (s, p)]
        for s, p in ((stock, plan), (stock["warm"], plan["warm"]))
    )
    return (*cold, plan["planning_seconds"], cold[1] / cold[0], *warm, warm[1] / warm[0])


def rates(files: Files) -> Lines:
    """How far the rates of core/fits.py are off, in shares of stock's time."""
    from torch_materialize.core.cost import seconds
    from torch_materialize.core.fits import FITS

    yield from head("file", "device", "rates of", "shares", "median error")
    by_machine: dict[tuple[str, str], list[float]] = {}
    for name, data in files.items():
        device = "h200" if "cuda" in data["machine"] else "cpu"
        errors = []
        for row in measured(data):
            said = row.get("predicted", {}) if row["part"] == "fused" else {}
            each = {
                way: seconds(_loads(one), FITS[device]) for way, one in said.items() if _loads(one)
            }
            errors += [
                abs(guess / each[_STOCK] / row["ways"][way]["of_stock"]["median"] - 1)
                for way, guess in each.items()
                if way != _STOCK
            ]
        by_machine.setdefault((data["machine"]["device"], device), []).extend(errors)
        if errors:
            found = f"{statistics.median(errors):.1%}"
            yield line([f"`{name}`", data["machine"]["device"], device, str(len(errors)), found])
    for (machine, device), errors in by_machine.items():
        found = f"{statistics.median(errors):.1%}"
        yield line(["all of these", machine, device, str(len(errors)), found])


def _loads(said: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Kinds of kernels with what they do; kernel by kernel, but in older files."""
    from torch_materialize.core.cost import Load

    if "each" in said:
        return [(kind, Load(*load)) for kind, *load in said["each"]]
    return [(kind, Load(**load)) for kind, load in said.get("loads", {}).items()]


# Answers -----------------------------------------------------------------------------------------


def answers(files: Files) -> Lines:
    """Errors against fp64, in thousandths of the answer's size, and what equals eager's bits."""
    every = [row for data in files.values() for row in data["correctness"] if "errors" in row]
    ways = list(dict.fromkeys(way for row in every for way in row["errors"]))
    yield from head("model", *ways, "allowed", "wrong")
    for row in every:
        errors = [f"{1e3 * row['errors'][w]:.2f}" if w in row["errors"] else "" for w in ways]
        wrong = "; ".join(row["wrong"].values())
        yield line([row["name"], *errors, f"{1e3 * row['limit']:.2f}", wrong or "none"])
        equal = row.get("equal_to_eager", {})
        if equal:
            shares = [f"={equal[way]:.5f}" if way in equal else "" for way in ways]
            yield line(["bits of eager's", *shares, "", ""])


def agreements(files: Files) -> Lines:
    """Of each target the elements that have eager's bits, whole and in pieces; = where alike."""
    first = next(iter(files.values()))["agreements"][0]
    policies = list(dict.fromkeys(way["policy"] for way in first["ways"]))
    yield from head("torch", "target", "of", *policies)
    for data in files.values():
        for row in data["agreements"]:
            for what in ("outputs", "gradients"):
                ways = [way for way in row["ways"] if what in way]
                cells = [_agreement([w for w in ways if w["policy"] == p], what) for p in policies]
                if ways:
                    yield line([short(data["torch"]), row["name"].partition(":")[0], what, *cells])


def _agreement(ways: Sequence[Mapping[str, Any]], what: str) -> str:
    shares = [way[what]["equal"] / way[what]["elements"] for way in ways]
    # Never 100% where something differs.
    text = "; ".join("all" if one == 1 else f"{math.floor(one * 1e4) / 100:.2f}%" for one in shares)
    return f"{text} =" if any(way["as_whole"] for way in ways) else text


def roundings(files: Files) -> Lines:
    """Activations moved, share of the results that equal eager's bits, time of stock's."""
    yield from head("torch", "way", *next(iter(files.values()))["results"])
    for data in files.values():
        torch, columns = short(data["versions"]["torch"]), data["results"]
        for way in next(iter(columns.values())):
            each = []
            for ways in columns.values():
                one, units = ways[way], ways[way]["units"]
                share = one["milliseconds"] / ways[_STOCK]["milliseconds"]
                moved = "" if units is None else f"{units:.0f}, "
                each.append(f"{moved}{one['equal_to_eager']:.5f}, x{share:.2f}")
            yield line([torch, way, *each])
            torch = ""


def cuts(files: Files) -> Lines:
    """One model whole and in pieces: the smallest agreement of the cuts beside the whole."""
    yield from head("torch", "device", "policy", "logits as whole", "tokens as whole",
                    "whole: logits as eager", "tokens as eager")  # fmt: skip
    for data in files.values():
        torch, rows = short(data["versions"]["torch"]), data["results"]
        tokens = rows["eager"]["tokens"]
        for policy in dict.fromkeys(name.partition(", ")[0] for name in rows if name != "eager"):
            own = {n.partition(", ")[2]: r for n, r in rows.items() if n.startswith(f"{policy}, ")}
            whole, pieces = own["whole"], [r for name, r in own.items() if name != "whole"]
            logits = min(row["logits_as_whole"] for row in pieces), whole["logits_as_eager"]
            same = min(row["tokens_as_whole"] for row in pieces), whole["tokens_as_eager"]
            as_whole = f"{logits[0]:.4f}", f"{same[0]} of {tokens}"
            as_eager = f"{logits[1]:.4f}", f"{same[1]} of {tokens}"
            yield line([torch, data.get("device", "cpu"), policy, *as_whole, *as_eager])


def engines(files: Files) -> Lines:
    """What vLLM's engines agree in: whole and in pieces, and either of them with eager."""
    yield from head("file", "model", "policy", "whole / pieces", "whole / eager", "pieces / eager")
    for name, data in files.items():
        pairs = {(one["model"], one["pair"]): one for one in data["pairs"]}
        policies = dict.fromkeys(
            (model, run.partition(" ")[2]) for model, pair in pairs for run in pair.split(" / ")
        )
        for model, policy in policies:
            whole, pieces = f"whole {policy}", f"piecewise {policy}"
            both = (whole, pieces), (whole, "eager stock"), (pieces, "eager stock")
            found = [_agreed(pairs, model, *pair) for pair in both]
            if any(found):
                yield line([name.removesuffix(".json"), model, policy, *found])


def _agreed(pairs: Mapping[tuple[str, str], Any], model: str, one: str, other: str) -> str:
    """``192, 192 of 192, 0.0000``: equal tokens, equal logprobs, the largest difference."""
    pair = pairs.get((model, f"{one} / {other}")) or pairs.get((model, f"{other} / {one}"))
    if pair is None:
        return ""
    both = pair["greedy"], pair["seeded"]
    tokens, equal, all_ = (
        sum(way[key] for way in both) for key in ("equal_tokens", "equal_logprobs", "logprobs")
    )
    return f"{tokens}, {equal} of {all_}, {max(way['largest'] for way in both):.4f}"


def fuzzed(files: Files) -> Lines:
    """Random programs and graphs."""
    yield from head("what", "device", "seed", "examples", "seconds", "failures")
    for data in files.values():
        for one in data.get("runs", [data]):
            cells = [one[key] for key in ("seed", "examples", "seconds")]
            failures = str(len(one["failures"]))
            yield line([one["what"], one.get("device", "cpu"), *map(str, cells), failures])


# Which table a file has --------------------------------------------------------------------------

#: Kind -> its table, and what a file of the kind has; the first that fits is a file's kind.
KINDS_OF_FILES: dict[str, tuple[Callable[..., Lines], Callable[[Any], bool]]] = {
    "comparisons": (comparisons, lambda data: isinstance(data, list)),
    "sweeps": (sweeps, lambda data: data.get("schema") == "torch-materialize/sweep"),
    "ablations": (ablations, lambda data: "found" in _first(data, "rows")),
    "searches": (searches, lambda data: "searches" in data),
    "agreements": (agreements, lambda data: "agreements" in data),
    "trained": (trained, lambda data: "trained" in data),
    "kept": (kept, lambda data: "budget" in data),
    "vllm bytes": (vllm_bytes, lambda data: "cut" in _first(data, "models", "rows")),
    "numerics": (numerics, lambda data: any("numerics=eager" in w for w in _ways(data))),
    "times": (times, lambda data: "rows" in data and "machine" in data),
    "answers": (answers, lambda data: "correctness" in data),
    "compiles": (compiles, lambda data: "cases" in data),
    "cuts": (cuts, lambda data: "steps" in data and "results" in data),
    "roundings": (roundings, lambda data: "results" in data),
    "engines": (engines, lambda data: "greedy" in _first(data, "pairs")),
    "starts": (starts, lambda data: _STOCK in _first(data, "pairs")),
    "fuzzed": (fuzzed, lambda data: "what" in data or "what" in _first(data, "runs")),
}


def _ways(data: Any) -> Sequence[str]:
    """The ways of a file that holds what rounding as eager costs."""
    ways = data.get("ways", ()) if "rows" in data else ()
    return ways if any(way.startswith("stock, ") for way in ways) else ()


def _first(data: Any, *keys: str) -> Mapping[str, Any]:
    return next((data[key][0] for key in keys if data.get(key)), {})


def kind_of(name: str, data: Any) -> str:
    """The kind of a result file.

    Raises:
        ValueError: it has none that this maker knows.
    """
    for kind, (_, fits) in KINDS_OF_FILES.items():
        if fits(data):
            return kind
    raise ValueError(f"{name}: no table is known for it; known are {', '.join(KINDS_OF_FILES)}")


def tables(paths: Sequence[Path], **chosen: Any) -> Lines:
    """The tables of some files, those of one kind together."""
    kinds: dict[str, dict[str, Any]] = {}
    for path in paths:
        data = read_json(path)
        name = path.name if path.parent == RESULTS else str(path)
        kinds.setdefault(kind_of(name, data), {})[name] = data
    for kind, files in kinds.items():
        yield from KINDS_OF_FILES[kind][0](files, **(chosen if kind == "sweeps" else {}))
        yield ""


# Pages -------------------------------------------------------------------------------------------


def index() -> dict[str, Any]:
    """``results/index.toml``: pages, and the files of each."""
    import tomllib  # from Python 3.11 on

    return tomllib.loads((RESULTS / "index.toml").read_text(encoding="utf-8"))


def pages() -> Iterator[tuple[Path, str]]:
    """Every page of docs/results/, as its file and its text."""
    folder, every = ROOT / "docs" / "results", index()
    for name, page in every["page"].items():
        yield folder / f"{name}.md", "\n".join(_page(page, every["file"])) + "\n"
    listed = [f"- [{page['title']}]({name}.md)" for name, page in every["page"].items()]
    about = ["# Results", "", every["about"].strip(), "", *listed]
    yield folder / "index.md", "\n".join(about) + "\n"


def _page(page: Mapping[str, Any], files: Mapping[str, Any]) -> Lines:
    yield f"# {page['title']}"
    yield ""
    yield "<!-- Made by `python benchmarks/tables.py --pages` from results/index.toml. -->"
    yield ""
    yield page["text"].strip()
    yield ""
    yield from tables([RESULTS / name for name in page["files"]], **page.get("only", {}))
    if page.get("rates"):
        yield from rates({name: read_json(RESULTS / name) for name in page["rates"]})
        yield ""
    yield "## Files"
    yield ""
    for name in dict.fromkeys([*page["files"], *page.get("rates", ())]):
        one = files[name]
        yield (
            f"- `{name}`: {one['claim']} {one['device']}, torch {one['torch']}, {one['date']}, "
            f"commit {one['commit']}: `{one['command']}`"
        )


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--pages", action="store_true", help="write docs/results/*.md")
    chosen = parser.parse_args()
    if chosen.pages:
        for path, text in pages():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    sys.stdout.write("\n".join(tables([path.resolve() for path in chosen.files])) + "\n")


if __name__ == "__main__":
    main()
