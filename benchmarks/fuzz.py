"""Random programs under every policy, or random graphs for the planner alone.

``python benchmarks/run.py fuzz compiled --examples 200 --minutes 10`` compiles programs (on a CPU,
or ``--device cuda``) and compares them with eager, with stock and with exact results.  A plan acts
wherever it saves a byte there, or what is stored is drawn (``--limits``).  With ``--device h200``
they are compiled for a GPU that is not there, and its Triton code is interpreted on the CPU.
``python benchmarks/run.py fuzz planner --examples 20000`` plans random graphs without a compile.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

# What is checked is where the tests are; caches would serve what an earlier program compiled.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
os.environ.setdefault("TORCH_MATERIALIZE_STRICT", "1")
os.environ["TORCHINDUCTOR_FX_GRAPH_CACHE"] = os.environ["TORCHINDUCTOR_AUTOGRAD_CACHE"] = "0"

from fuzzing.hunt import Tally, hunt

# How often progress is shown, in seconds.
_SHOWN = 60.0


def main(chosen: Any) -> int:
    """Prints each failure, then what was seen; status 1 where something of ours failed."""
    warnings.simplefilter("ignore")
    if chosen.what == "planner":
        from fuzzing.graphs import problem_fails, problems

        one, strategy = problem_fails, problems()
    else:
        from fuzzing.programs import HERE, programs

        if chosen.device not in HERE:
            os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
        from fuzzing.compiled import POLICIES, program_fails

        how = {"device": chosen.device, "limits": chosen.limits}
        one = partial(program_fails, **how, policies=chosen.policy or POLICIES)
        strategy = programs(chosen.lines)

    last = time.monotonic()

    def shown(example: Any, tally: Tally) -> None:
        nonlocal last
        before = len(tally.failures)
        one(example, tally)
        if time.monotonic() - last > _SHOWN:
            last = time.monotonic()
            print(f"{tally.ran} examples, {len(tally.failures)} failures", file=sys.stderr)
        for text in tally.failures[before:]:
            print(f"FAILED\n{text}\n", flush=True)

    asked = {"examples": chosen.examples, "seed": chosen.seed, "minutes": chosen.minutes}
    tally = hunt(shown, strategy, **asked)
    for text in dict.fromkeys(tally.upstream):
        print(f"upstream: {text}")
    for name, count in sorted(tally.seen.items()):
        print(f"{count:7d} {name}")
    print(f"{tally.ran} examples in {tally.seconds:.0f} s, {len(tally.failures)} failures")
    if chosen.json is not None:
        from paired.machine import save

        named = ("what", "device", "limits", "policy", "seed")
        save(
            chosen.json,
            **{name: getattr(chosen, name) for name in named},
            examples=tally.ran,
            seconds=round(tally.seconds, 1),
            seen=dict(sorted(tally.seen.items())),
            failures=tally.failures,
            upstream=sorted(set(tally.upstream)),
        )
    return 1 if tally.failures else 0
