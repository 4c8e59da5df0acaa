"""One model, cut in different ways: are the answers the same?

    python benchmarks/cuts.py --json FILE

A small random language model (bf16, vLLM-style norms, opaque attention) runs whole, cut at every
layer, at every attention and at every matmul, under each policy, and eagerly.  For each way: the
share of logits that equal the whole graph's and eager's to the last bit, greedy tokens after
several prompts that equal theirs, and the distance of the logits to eager's and to a run of the
same weights in fp64.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import torch_materialize as tm
from saving import save
from torch_materialize.models.language import CUTS, Language, cut, greedy

POLICIES = ("stock", "traffic", "plan", "plan:numerics=eager")
PROMPTS = ((1, 5, 7, 9, 23), (400, 2, 2, 17))
WINDOW = 48

Model = Callable[[torch.Tensor], torch.Tensor]


class Answers:
    """What one way of running the model answers.

    Attributes:
        logits: of one pass over fixed tokens, ``(tokens, vocabulary)``, in fp64.
        tokens: what follows each prompt, greedily.
    """

    def __init__(self, model: Model, ids: torch.Tensor, steps: int) -> None:
        with torch.no_grad():
            self.logits = model(ids).double()
        device = ids.device.type
        self.tokens = [
            token for prompt in PROMPTS for token in greedy(model, prompt, steps, WINDOW, device)[0]
        ]

    def same_logits(self, other: Answers) -> float:
        return round((self.logits == other.logits).double().mean().item(), 5)

    def same_tokens(self, other: Answers) -> int:
        return sum(a == b for a, b in zip(self.tokens, other.tokens, strict=True))

    def distance(self, other: Answers) -> float:
        """Root mean square of the difference of the logits."""
        return round((self.logits - other.logits).square().mean().sqrt().item(), 6)


def measure(model: Language, policies: list[str], steps: int) -> dict[str, dict]:
    ids = torch.arange(WINDOW, device=model.embedding.device) * 37 % model.embedding.shape[0]
    eager = Answers(model, ids, steps)
    exact = Answers(model.copy(torch.float64), ids, steps)
    found: dict[str, dict] = {
        "eager": {"tokens": len(eager.tokens), "distance_to_fp64": eager.distance(exact)}
    }
    for policy in policies:
        whole = None
        for where in CUTS:
            start = time.perf_counter()
            torch._dynamo.reset()
            ours = Answers(cut(model.copy(), where, options=tm.options(policy)), ids, steps)
            whole = whole or ours
            found[f"{policy}, {where}"] = {
                "logits_as_whole": ours.same_logits(whole),
                "tokens_as_whole": ours.same_tokens(whole),
                "logits_as_eager": ours.same_logits(eager),
                "tokens_as_eager": ours.same_tokens(eager),
                "distance_to_eager": ours.distance(eager),
                "distance_to_fp64": ours.distance(exact),
            }
            sys.stderr.write(f"{policy}, {where}: {time.perf_counter() - start:.0f} s\n")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", action="append", help=f"default: {', '.join(POLICIES)}")
    parser.add_argument("--steps", type=int, default=256, help="tokens after each prompt")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.manual_seed(0)
    model = Language(chosen.layers, hidden=128).to(chosen.device)
    found = measure(model, chosen.policy or list(POLICIES), chosen.steps)
    tokens = found["eager"]["tokens"]
    table = Table(
        title=f"torch {torch.__version__}, {tokens} tokens, {chosen.layers} layers, {chosen.device}"
    )
    columns = [column for row in found.values() for column in row if column != "tokens"]
    columns = list(dict.fromkeys(columns))
    for heading in ("", *columns):
        table.add_column(heading.replace("_", " "))
    for name, row in found.items():
        table.add_row(name, *(str(row.get(column, "")) for column in columns))
    Console(width=140).print(table)
    if chosen.json:
        save(
            chosen.json,
            device=chosen.device,
            steps=chosen.steps,
            layers=chosen.layers,
            results=found,
        )


if __name__ == "__main__":
    main()
