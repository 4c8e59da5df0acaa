"""vLLM without a GPU: bytes of what it would compile, cold starts, what its engines agree in.

    python benchmarks/run.py vllm-bytes --layers 8 --json FILE
    python benchmarks/run.py vllm-start --pairs 3 --json FILE
    VLLM_TEST_FOLDER=out make vllm-test && python benchmarks/run.py vllm-answers out --json FILE

All need vLLM (docs/vllm.md).  Bytes are of a planned GPU, every policy in one run; status 1 where
`plan` moves more than stock or `traffic` in any row.  Starts are of a Llama with random weights on
a CPU, full graph, in turn (stock, plan, plan, stock, ...), an empty cache folder for each, on a
machine that does nothing else; status 3 where it does.  Tokens and logprobs are compared place by
place; logprobs only until the tokens of a prompt part.
"""

from __future__ import annotations

import json
import os
import statistics
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
_WAIT = 300  # seconds for a machine to become quiet


def main(chosen: Any) -> int:
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
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "with_vllm"))
    from models import make

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
            ratios = [p["plan"]["ready_seconds"] / p["stock"]["ready_seconds"] for p in pairs]
            if chosen.json:
                save(chosen.json, pairs=pairs, median_ratio=statistics.median(ratios))
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
        answer = launch(model, "whole", Path(cache), TORCH_MATERIALIZE=policy)
    return {"policy": policy, "load_before": round(before, 2), **_planned(answer)}


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
    text = (chosen.folder / "answers.jsonl").read_text(encoding="utf-8")
    answers = [json.loads(line) for line in text.splitlines()]
    runs = [{"model": a["kind"], "run": name(a), **_planned(a)} for a in answers]
    pairs = list(_pairs([a for a in answers if not a["again"]]))
    if chosen.json:
        save(chosen.json, runs=runs, pairs=pairs)
    return 0


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
