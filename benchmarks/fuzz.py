"""Random programs under every policy, or random graphs for the planner alone.

``python benchmarks/fuzz.py compiled --examples 200 --minutes 10`` compiles programs (on a CPU, or
``--device cuda``) and compares them with eager, with stock and with exact results.  A plan acts
wherever it saves a byte there, or what is stored is drawn (``--limits``).  ``python
benchmarks/fuzz.py planner --examples 20000`` needs no torch.  Prints each failure with what makes
it again, then what was seen.  Exit status: 1 if something of ours failed.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import click

# What is checked is where the tests are; caches would serve what an earlier program compiled.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
os.environ.setdefault("TORCH_MATERIALIZE_STRICT", "1")
os.environ["TORCHINDUCTOR_FX_GRAPH_CACHE"] = os.environ["TORCHINDUCTOR_AUTOGRAD_CACHE"] = "0"

from fuzzing.hunt import Tally, hunt

# How often progress is told, in seconds.
_TELL = 60.0


@click.command()
@click.argument("what", type=click.Choice(["compiled", "planner"]))
@click.option("--examples", default=100, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True)
@click.option("--minutes", default=float("inf"), type=click.FloatRange(0, min_open=True))
@click.option("--lines", default=14, show_default=True, help="Most lines of a program.")
@click.option("--device", default="cpu", show_default=True, help="That programs run on.")
@click.option(
    "--limits",
    default="mixed",
    show_default=True,
    type=click.Choice(["mixed", "strong", "random", "usual"]),
    help="When a plan acts: wherever it saves a byte, at random, either, or as for users.",
)
@click.option(
    "--policy", "policies", multiple=True, help="What is compared with stock. Default: all."
)
@click.option("--json", "path", type=click.Path(dir_okay=False, path_type=Path))
def main(
    what: str,
    examples: int,
    seed: int,
    minutes: float,
    lines: int,
    device: str,
    limits: str,
    policies: tuple[str, ...],
    path: Path | None,
) -> None:
    warnings.simplefilter("ignore")
    if what == "planner":
        from fuzzing.graphs import problem_fails, problems

        one, strategy = problem_fails, problems()
    else:
        from fuzzing.compiled import POLICIES, program_fails
        from fuzzing.programs import programs

        chosen = policies or POLICIES
        one = partial(program_fails, device=device, limits=limits, policies=chosen)
        strategy = programs(lines)

    told = time.monotonic()

    def shown(example: Any, tally: Tally) -> None:
        nonlocal told
        before = len(tally.failures)
        one(example, tally)
        if time.monotonic() - told > _TELL:
            told = time.monotonic()
            print(f"{tally.ran} examples, {len(tally.failures)} failures", file=sys.stderr)
        for text in tally.failures[before:]:
            print(f"FAILED\n{text}\n", flush=True)

    tally = hunt(shown, strategy, examples=examples, seed=seed, minutes=minutes)
    for text in dict.fromkeys(tally.upstream):
        print(f"upstream: {text}")
    for name, count in sorted(tally.seen.items()):
        print(f"{count:7d} {name}")
    print(f"{tally.ran} {what} examples in {tally.seconds:.0f} s, {len(tally.failures)} failures")
    if path is not None:
        from torch_materialize.results.base import write_json
        from torch_materialize.versions import installed_versions

        write_json(
            path,
            {
                "what": what,
                "device": device,
                "limits": limits,
                "policies": policies,
                "seed": seed,
                "examples": tally.ran,
                "seconds": round(tally.seconds, 1),
                "versions": installed_versions(),
                "seen": dict(sorted(tally.seen.items())),
                "failures": tally.failures,
                "upstream": sorted(set(tally.upstream)),
            },
        )
    sys.exit(1 if tally.failures else 0)


if __name__ == "__main__":
    main()
