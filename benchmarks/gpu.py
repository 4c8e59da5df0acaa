"""Everything that a GPU is needed for, in one command that ends within ten minutes.

    python benchmarks/gpu.py --json FILE                       # on a GPU
    python benchmarks/gpu.py --json FILE --device cpu --quick  # the same path, small, on a CPU

First whether the answers are right, against fp64 and beside eager's; then times, by CUDA events
over replayed CUDA graphs, with inputs rotated past the last cache.  The file is rewritten after
every case: a run that is cut short leaves what it has.  Nothing is installed or downloaded; what
it needs beside torch is named where it is missing (``pip download scipy rich -d wheels`` where
there is a network, ``pip install --no-index --target site wheels/*`` and ``PYTHONPATH=site`` where
there is none).
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from pathlib import Path
from typing import Any

_SOURCE = Path(__file__).resolve().parents[1] / "src"
_NEEDED = ("torch", "triton", "numpy", "scipy", "rich")
#: What is timed on a GPU, so that the first minutes hold what matters most.
_WAYS = ("traffic", "plan", "eager", "piecewise")
_QUICK = ("plan", "piecewise")


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--json", type=Path, required=True, help="where the results go")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="few and small cases")
    parser.add_argument("--seconds", type=float, default=540.0, help="for everything")
    chosen = parser.parse_args()
    deadline = time.monotonic() + chosen.seconds
    _require(chosen.device)
    if not chosen.json.resolve().parent.is_dir():
        raise SystemExit(f"--json: there is no folder {chosen.json.resolve().parent}")
    correctness = _correctness(chosen, deadline)
    _times(chosen, deadline, correctness)


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


def _correctness(chosen: argparse.Namespace, deadline: float) -> list[dict[str, Any]]:
    from paired.cases import cases
    from paired.correct import check
    from paired.machine import describe
    from saving import save

    # A quarter of the time at most: times are what a GPU is needed for.
    deadline -= 0.75 * chosen.seconds
    ways: tuple[str, ...] = ("traffic", "plan", "piecewise")
    if not chosen.quick:
        ways = (*ways, "plan:numerics=eager", "plan:numerics=stock", "tune")
    rows: list[dict[str, Any]] = []
    for case in cases(chosen.device, (64,), divisor=16 if chosen.quick else 8):
        if case.part != "whole" or (chosen.quick and case.tokens != 64):
            continue
        if time.monotonic() > deadline:
            break
        try:
            row = check(case, ways, chosen.device)
        except Exception as error:  # noqa: BLE001 - the others are worth having
            row = {"name": case.name, "error": f"{type(error).__name__}: {error}"}
        rows.append(row)
        verdict = row.get("wrong") or row.get("error") or "right"
        sys.stdout.write(f"{case.name}: {verdict}\n")
        sys.stdout.flush()
        save(chosen.json, machine=describe(chosen.device), correctness=rows)
    return rows


def _times(chosen: argparse.Namespace, deadline: float, correctness: list[dict[str, Any]]) -> None:
    from paired.cases import cases
    from paired.measure import Effort
    from run import run

    if chosen.quick:
        effort = Effort(rounds=5, least=3, seconds=2.0)
        wanted = [c for c in cases(chosen.device, (1, 64), divisor=16) if c.tokens in (1, 64)]
    else:
        effort = Effort(rounds=31, least=7, seconds=4.0)
        wanted = list(cases(chosen.device))
    seconds = deadline - time.monotonic()
    ways = _QUICK if chosen.quick else _WAYS
    run(wanted, ways, chosen.device, effort, seconds, chosen.json, correctness=correctness)


if __name__ == "__main__":
    main()
