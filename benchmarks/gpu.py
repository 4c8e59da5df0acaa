"""Everything that a GPU is needed for, in one command that ends within ten minutes.

    python benchmarks/gpu.py --json FILE                       # on a GPU
    python benchmarks/gpu.py --json FILE --device cpu --quick  # the same path, small, on a CPU
    python benchmarks/predict.py FILE                          # bytes beside times; needs no GPU

First whether the answers are right, against fp64 and beside eager's; then times, by CUDA events
over replayed CUDA graphs, with inputs rotated past the last cache.  Cases are compiled side by
side, each in a process of its own, and timed one at a time, meanwhile.  The file is rewritten
after every case: a run that is cut short leaves what it has.

Nothing is installed or downloaded; what it needs beside torch is named where it is missing
(``pip download scipy msgspec rich -d wheels`` where there is a network, ``pip install --no-index
--target site wheels/*`` and ``PYTHONPATH=site`` where there is none).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paired.apart import Job
    from paired.cases import Case

Ways = tuple[str, ...]

_SOURCE = Path(__file__).resolve().parents[1] / "src"
_NEEDED = ("torch", "triton", "numpy", "scipy", "msgspec", "rich")
#: What is timed on a GPU.
_WAYS = {"fused": ("traffic", "plan"), "whole": ("traffic", "plan", "eager", "piecewise")}
_QUICK = ("plan", "piecewise")
# How many cases the memory of one GPU holds; each that is compiled takes a core.
_MOST = 14


def main() -> None:
    chosen = _arguments()
    deadline = time.monotonic() + chosen.seconds
    _require(chosen.device)
    if not chosen.json.resolve().parent.is_dir():
        raise SystemExit(f"--json: there is no folder {chosen.json.resolve().parent}")
    # Each case has a process; a pool of compile workers for each would only be in the way.
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", folder)
        # A quarter of the time at most: times are what a GPU is needed for.
        right = [] if chosen.only == "times" else _correctness(chosen, deadline)
        if chosen.only != "answers":
            _times(chosen, deadline, right)


def _arguments() -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("names", nargs="*", help="cases whose label begins so, in this order")
    parser.add_argument("--json", type=Path, required=True, help="where the results go")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--part", choices=("fused", "whole"), help="to be timed; default: both")
    parser.add_argument("--only", choices=("answers", "times"), help="default: both")
    parser.add_argument("--way", action="append", help="to be timed, beside stock")
    parser.add_argument("--quick", action="store_true", help="few and small cases")
    parser.add_argument("--seconds", type=float, default=540.0, help="for everything")
    return parser.parse_args()


def _require(device: str) -> None:
    """Says in one line what is missing, before minutes are spent."""
    if importlib.util.find_spec("torch_materialize") is None:
        sys.path.insert(0, str(_SOURCE))
    needed = [name for name in _NEEDED if name != "triton" or device == "cuda"]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise SystemExit(
            f"missing: {', '.join(missing)}. Download wheels where there is a network "
            f"(pip download {' '.join(missing)} -d wheels) and install them here "
            "(pip install --no-index --target site wheels/*; export PYTHONPATH=site)."
        )
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            "no CUDA device is visible to torch "
            f"{torch.__version__}; to try the script without one: --device cpu --quick"
        )


def _at_once(device: str) -> int:
    cores = len(os.sched_getaffinity(0))
    return max(1, min(_MOST, cores - 1)) if device == "cuda" else 1


def _jobs(
    chosen: argparse.Namespace, every: Iterable[Case], ways: Mapping[str, Ways], **how: Any
) -> list[Job]:
    """A job for each case that is wanted by name; ``how`` are the other fields of a job.

    ``ways`` are by part.
    """
    from paired.apart import Job

    jobs = [Job(case.label, chosen.device, ways=ways[case.part], **how) for case in every]
    if not chosen.names:
        return jobs
    found = [job for name in chosen.names for job in jobs if job.label.startswith(name)]
    return list(dict.fromkeys(found))


def _correctness(chosen: argparse.Namespace, deadline: float) -> list[dict[str, Any]]:
    from paired.apart import rows
    from paired.cases import cases
    from paired.machine import describe
    from saving import save

    deadline -= 0.75 * chosen.seconds
    ways: Ways = ("traffic", "plan", "piecewise")
    if not chosen.quick:
        ways = (*ways, "plan:numerics=eager", "plan:numerics=stock", "tune")
    tokens, divisor = (64,), 16 if chosen.quick else 8
    every = [c for c in cases(chosen.device, tokens, divisor) if c.part == "whole"]
    if chosen.quick:
        every = [case for case in every if case.tokens in tokens]
    wanted = _jobs(chosen, every, {"whole": ways}, tokens=tokens, divisor=divisor)
    found: list[dict[str, Any]] = []
    for job, row in rows(wanted, _at_once(chosen.device), deadline):
        found.append(row)
        verdict = row.get("wrong") or row.get("error") or "right"
        sys.stdout.write(f"{job.label}: {verdict}\n")
        sys.stdout.flush()
        save(chosen.json, machine=describe(chosen.device), correctness=found)
    return found


def _times(chosen: argparse.Namespace, deadline: float, correctness: list[dict[str, Any]]) -> None:
    from paired.apart import rows
    from paired.cases import TOKENS, cases
    from paired.measure import Effort
    from paired.ways import beside_stock
    from run import Kept

    tokens, divisor, effort = TOKENS, 0, Effort(rounds=15, least=5, seconds=0.5)
    if chosen.quick:
        tokens, divisor, effort = (1, 64), 16, Effort(rounds=5, least=3, seconds=2.0)
    every = list(cases(chosen.device, tokens, divisor))
    if chosen.quick:
        every = [case for case in every if case.tokens in tokens]
    if chosen.part:
        every = [case for case in every if case.part == chosen.part]
    ways = {
        part: beside_stock(tuple(chosen.way or (_QUICK if chosen.quick else usual)))
        for part, usual in _WAYS.items()
    }
    wanted = _jobs(chosen, every, ways, tokens=tokens, divisor=divisor, effort=effort)
    seen = tuple(dict.fromkeys(way for job in wanted for way in job.ways))
    kept = Kept(chosen.json, chosen.device, seen, [job.label for job in wanted])
    for job, row in rows(wanted, _at_once(chosen.device), deadline):
        kept.add(job.label, row, correctness=correctness)


if __name__ == "__main__":
    main()
