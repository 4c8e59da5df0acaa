"""vLLM without a GPU: bytes of what it would compile, cold starts, what its engines agree in.

    python benchmarks/run.py vllm-bytes --layers 8 --json FILE
    python benchmarks/run.py vllm-start --pairs 3 --json FILE
    python benchmarks/run.py vllm-answers out --model llama --model moe --json FILE

All need vLLM (docs/vllm.md).  Bytes are of a planned GPU, every policy in one run; status 1 where
`plan` moves more than stock or `traffic` in any row.  Starts are of a Llama with random weights on
a CPU, full graph, in turn (stock, plan, plan, stock, ...), each with an empty cache folder and once
more over what that left there, on a machine that does nothing else; status 3 where it does.
Answers are those in a folder, which ``VLLM_TEST_FOLDER=out make vllm-test`` leaves, too; engines of
the models named that are not there are run first.  Tokens and logprobs are compared place by place;
logprobs only until the tokens of a prompt part.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

from paired.machine import save

POLICIES = ("stock", "traffic", "plan")
SAMPLING = ("greedy", "seeded")
# Eager, stock, `plan` and rounded as eager rounds, whole and in pieces.
_ENGINES = (
    ("eager", "stock"),
    ("whole", "stock"),
    ("piecewise", "stock"),
    ("whole", "plan"),
    ("piecewise", "plan"),
    ("whole", "plan:numerics=eager"),
    ("piecewise", "plan:numerics=eager"),
)
_WAIT = 300  # seconds for a machine to become quiet


def main(chosen: Any) -> int:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "with_vllm"))
    return {"vllm-bytes": _bytes, "vllm-start": _starts, "vllm-answers": _answers}[chosen.command](
        chosen
    )


def _bytes(chosen: Any) -> int:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from torch_materialize.models.vllm import CONFIGS, CUTS

    warnings.simplefilter("ignore")
    rows = []
    for model in chosen.model or CONFIGS:
        for cut in chosen.cut or CUTS:
            for tokens in chosen.tokens or (1, 16, 1024, 8192):
                rows.append(row_of_bytes(model, cut, tokens, chosen.layers, chosen.device))
                print(rows[-1], flush=True)
                if chosen.json:
                    save(chosen.json, rows=rows)
    worse = [r for r in rows if r["plan"]["bytes"] > min(r[p]["bytes"] for p in POLICIES)]
    for row in worse:
        print("plan is not the least:", row, file=sys.stderr)
    return 1 if worse else 0


def row_of_bytes(
    model: str, cut: str, tokens: int, layers: int | None, device: str
) -> dict[str, Any]:
    from torch_materialize.jobs.explain import compare

    found = compare(f"vllm:{model}:{cut}", POLICIES, device, tokens=tokens, layers=layers)
    row: dict[str, Any] = {"model": model, "cut": cut, "tokens": tokens, "layers": layers}
    row |= {"device": device, "unit_bytes": found.unit_bytes, "versions": dict(found.versions)}
    for policy in POLICIES:
        total = found.traffic(policy)
        row[policy] = {"bytes": total.bytes, "kernels": total.kernels}
        row[policy] |= {"other_kernels": total.other_kernels, "seconds": found.seconds[policy]}
    return row


def _starts(chosen: Any) -> int:
    from models import make

    from torch_materialize.versions import vllm_version

    pairs: list[dict[str, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory(prefix="vllm-start-") as folder:
        model = make("llama", Path(folder))
        for number in range(chosen.pairs):
            pair: dict[str, dict[str, Any]] = {}
            for policy in ("plan", "stock") if number % 2 else ("stock", "plan"):
                if not _quiet(chosen.load):
                    print(f"load {os.getloadavg()[0]:.1f}: too busy to time", file=sys.stderr)
                    return 3
                pair[policy] = _start(model, policy)
                print(policy, pair[policy], flush=True)
            pairs.append(pair)
            if chosen.json:
                save(chosen.json, pairs=pairs, vllm=vllm_version())
    return 0


def _quiet(load: float) -> bool:
    """Whether the load of the last minute falls below ``load`` in time."""
    deadline = time.monotonic() + _WAIT
    while os.getloadavg()[0] >= load:
        if time.monotonic() > deadline:
            return False
        time.sleep(5)
    return True


def _start(model: Path, policy: str) -> dict[str, Any]:
    from launch import launch

    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="vllm-start-") as cache:
        cold, warm = (
            launch(model, "whole", Path(cache), TORCH_MATERIALIZE=policy) for _ in range(2)
        )
    row = {"policy": policy, "load_before": round(before, 2), **_planned(cold)}
    return {**row, "warm": _planned(warm)}


def _planned(answer: dict[str, Any]) -> dict[str, Any]:
    """Seconds until ready, of them planning; bytes ours and stock's over the planned graphs."""
    graphs = [x["planned"] for x in answer["lines"] if x["planned"]]
    return {
        "ready_seconds": round(answer["ready"], 1),
        "planning_seconds": round(sum(x["seconds"] for x in graphs), 2),
        "graphs_planned": len(graphs),
        "bytes": sum(x["bytes"] for x in graphs),
        "stock_bytes": sum(x["stock_bytes"] for x in graphs),
        **answer["counters"],
    }


def _answers(chosen: Any) -> int:
    for kind in chosen.model or ():
        _run_engines(chosen.folder, kind)
    answers = _kept(chosen.folder)
    if not answers:
        raise SystemExit(f"{chosen.folder} has no answers.jsonl: name a --model, or its folder")
    runs = [{"model": a["kind"], "run": name(a), **_planned(a)} for a in answers]
    pairs = list(_pairs([a for a in answers if not a["again"]]))
    if chosen.json:
        save(chosen.json, runs=runs, pairs=pairs)
    return 0


def _kept(folder: Path) -> list[dict[str, Any]]:
    file = folder / "answers.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _run_engines(folder: Path, kind: str) -> None:
    """Notes the answers of the engines of a model that the folder has not."""
    from launch import launch, note
    from models import make

    there = {name(answer) for answer in _kept(folder) if answer["kind"] == kind}
    for cut, policy in _ENGINES:
        if f"{cut} {policy}" not in there:
            more = {"TORCH_MATERIALIZE": policy}
            answer = launch(make(kind, folder / "models"), cut, folder / "cache", **more)
            note(folder, kind=kind, cut=cut, again=0, environment=more, **answer)
            print(kind, cut, policy, round(answer["ready"], 1), "s", flush=True)


def _pairs(answers: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for one, other in combinations(answers, 2):
        if one["kind"] == other["kind"]:
            pair = f"{name(one)} / {name(other)}"
            yield {"model": one["kind"], "pair": pair, **agreement(one, other)}


def name(answer: dict[str, Any]) -> str:
    """Cut and policy; what else was set, and which run over the same cache."""
    policy = answer["environment"].get("TORCH_MATERIALIZE", "plan")
    if "VLLM_PLUGINS" in answer["environment"]:
        policy = "excluded"
    return f"{answer['cut']} {policy}{', again' if answer['again'] else ''}"


def agreement(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Equal tokens of all, equal logprobs of those compared, largest difference."""
    found: dict[str, Any] = {}
    for sampling in SAMPLING:
        equal = count = 0
        apart: list[float] = []
        a, b = one[sampling], other[sampling]
        for s, t, p, q in zip(a["tokens"], b["tokens"], a["logprobs"], b["logprobs"], strict=True):
            same = [x == y for x, y in zip(s, t, strict=True)]
            equal, count = equal + sum(same), count + len(same)
            until = same.index(False) if False in same else len(same)
            apart += [abs(x - y) for x, y in zip(p[:until], q[:until], strict=True)]
        found[sampling] = {
            "equal_tokens": equal,
            "tokens": count,
            "equal_logprobs": sum(x == 0 for x in apart),
            "logprobs": len(apart),
            "largest": max(apart),
        }
    return found
