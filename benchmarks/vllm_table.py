"""Tables of the engines that the tests of vLLM ran: tokens, logprobs, bytes, time to start.

    VLLM_TEST_FOLDER=out make vllm-test && python benchmarks/vllm_table.py out --json FILE

Tokens and logprobs are compared place by place; logprobs only until the tokens of a prompt part.
"""

from __future__ import annotations

import argparse
import json
from itertools import combinations
from pathlib import Path
from typing import Any

from saving import save

SAMPLING = ("greedy", "seeded")


def name(answer: dict[str, Any]) -> str:
    """Cut and policy; what else was set, and which run over the same cache."""
    policy = answer["environment"].get("TORCH_MATERIALIZE", "plan")
    if "VLLM_PLUGINS" in answer["environment"]:
        policy = "excluded"
    again = ", again" if answer["again"] else ""
    return f"{answer['cut']} {policy}{again}"


def agreement(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Equal tokens of all, equal logprobs of those compared, largest difference."""
    found: dict[str, Any] = {}
    for sampling in SAMPLING:
        a, b = one[sampling], other[sampling]
        tokens = [
            pair
            for s, t in zip(a["tokens"], b["tokens"], strict=True)
            for pair in zip(s, t, strict=True)
        ]
        apart: list[float] = []
        for s, t, p, q in zip(a["tokens"], b["tokens"], a["logprobs"], b["logprobs"], strict=True):
            same = next((i for i, (x, y) in enumerate(zip(s, t, strict=True)) if x != y), len(s))
            apart += [abs(x - y) for x, y in zip(p[:same], q[:same], strict=True)]
        found[sampling] = {
            "equal_tokens": sum(x == y for x, y in tokens),
            "tokens": len(tokens),
            "equal_logprobs": sum(x == 0 for x in apart),
            "logprobs": len(apart),
            "largest": max(apart),
        }
    return found


def start(answer: dict[str, Any]) -> dict[str, Any]:
    """Seconds until ready, of them planning; bytes ours and stock's over the planned graphs."""
    lines = [x["args"] for x in answer["lines"] if x["format"].startswith("plan: %d nodes")]
    return {
        "ready_seconds": round(answer["ready"], 1),
        "planning_seconds": round(sum(float(x[-1]) for x in lines), 2),
        "graphs_planned": len(lines),
        "bytes": sum(int(x[3]) for x in lines),
        "stock_bytes": sum(int(x[5]) for x in lines),
        **answer["counters"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    text = (given.folder / "answers.jsonl").read_text(encoding="utf-8")
    answers = [json.loads(line) for line in text.splitlines()]
    kept: dict[str, Any] = {"runs": [], "pairs": []}
    print("| model | run | ready | planning | bytes | stock | compiled | loaded |")
    print("|---|---|---|---|---|---|---|---|")
    for answer in answers:
        row = {"model": answer["kind"], "run": name(answer), **start(answer)}
        kept["runs"].append(row)
        print(
            f"| {row['model']} | {row['run']} | {row['ready_seconds']} s "
            f"| {row['planning_seconds']} s | {row['bytes']} | {row['stock_bytes']} "
            f"| {row['num_inductor_compiles']} | {row['num_aot_artifacts_loaded']} |"
        )
    print("\n| model | runs | greedy | seeded | equal logprobs | largest difference |")
    print("|---|---|---|---|---|---|")
    for one, other in combinations([a for a in answers if not a["again"]], 2):
        if one["kind"] != other["kind"]:
            continue
        found = agreement(one, other)
        pair = f"{name(one)} / {name(other)}"
        kept["pairs"].append({"model": one["kind"], "pair": pair, **found})
        greedy, seeded = (found[sampling] for sampling in SAMPLING)
        print(
            f"| {one['kind']} | {pair} | {greedy['equal_tokens']} of {greedy['tokens']} "
            f"| {seeded['equal_tokens']} of {seeded['tokens']} "
            f"| {greedy['equal_logprobs'] + seeded['equal_logprobs']} "
            f"of {greedy['logprobs'] + seeded['logprobs']} "
            f"| {max(greedy['largest'], seeded['largest']):.4f} |"
        )
    if given.json:
        save(given.json, **kept)


if __name__ == "__main__":
    main()
