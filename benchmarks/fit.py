"""Fits the rates of core/cost.py to measured times of fused kernels, and shows how well.

    python benchmarks/fit.py cpu results/bench-cpu-*.json
    python benchmarks/fit.py cpu results/bench-cpu-*.json --write   # into core/fits.py

Non-negative least squares over shares: being wrong by a tenth counts the same for a graph of
microseconds and one of seconds.  Few cases tell little about many rates, so those of one thing
(a byte read, in the three kinds of kernel; a byte read, read again or written, in one kind) are
held together, as strongly as predicts best what was left out.  Beside each measured time stands
what the model says of it when that case was left out of the fit.  Only files of the same device,
torch, threads and clock go together.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from torch_materialize.core.cost import KINDS, Load, Rates, seconds
from torch_materialize.record import read_json

_TARGET = Path(__file__).parents[1] / "src" / "torch_materialize" / "core" / "fits.py"
#: How strongly rates are held together; the one that predicts best is taken.
_STRENGTHS = (0.0, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
_NAMES = tuple(field.name for field in fields(Load))
_HEAD = '''"""Rates of the cost model, by device, as `benchmarks/fit.py --write` fitted them.

A device that is not here was not measured, and has no predicted time.  The rates hold for the
machine and torch that the files named in ``source`` say.
"""

from __future__ import annotations

from collections.abc import Mapping

from .cost import Load, Rates

__all__ = ["FITS"]

FITS: Mapping[str, Rates] = {
'''


@dataclass(frozen=True)
class Sample:
    """One policy on one case: what its kernels do, and the seconds that they took.

    Where a profiler told kernels apart there is one for each of them, with its share of the time
    between kernels, and ``calls`` is 0: nothing waits for Python when a CUDA graph is replayed.
    """

    case: str
    policy: str
    work: Mapping[str, Load]
    measured: float
    calls: float = 1.0

    def row(self) -> list[float]:
        """The model's columns, kind by kind, then the call itself."""
        each = (getattr(self.work.get(k, Load()), name) for k in KINDS for name in _NAMES)
        return [*each, self.calls]


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("device", help="name of the entry, as in core/devices.py")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--without", action="append", default=[], help="cases that begin so")
    parser.add_argument("--write", action="store_true", help=f"into {_TARGET.name}")
    chosen = parser.parse_args()
    read = {path: read_json(path) for path in chosen.files}
    machines = set(map(_conditions, read.values()))
    if len(machines) != 1:
        raise SystemExit(f"files made alike go together; found {sorted(machines)}")
    every = [s for path, data in read.items() for s in _samples(path.name, data)]
    samples = [s for s in every if not s.case.startswith(tuple(chosen.without))]
    if len({s.case for s in samples}) < 3:
        raise SystemExit(
            f"a fit needs at least 3 cases of fused kernels; found {len(samples)} rows"
        )
    cache = next(iter(read.values()))["machine"]["cache_bytes"]
    tried = {strength: _left_out(samples, cache, strength) for strength in _STRENGTHS}
    strength, guesses = min(tried.items(), key=lambda one: _error(samples, one[1]))
    sys.stdout.write("\n".join(_table(samples, guesses)) + "\n")
    for one, each in tried.items():
        sys.stdout.write(f"held together by {one:g}: median error {_error(samples, each):.1%}\n")
    source, error = tuple(path.name for path in chosen.files), _error(samples, guesses)
    rates = replace(_fit(samples, cache, strength), source=source, error=round(error, 3))
    for kind in KINDS:
        sys.stdout.write(f"{kind}: {rates.by_kind[kind]}\n")
    sys.stdout.write(f"a call: {rates.call}\n")
    if chosen.write:
        _write(chosen.device, rates)


def _conditions(data: Mapping[str, Any]) -> tuple[str, ...]:
    """What must be the same for times to be of one kind."""
    here = data["machine"]
    threads = f"{here['threads']} threads"
    return here["device"], threads, data["versions"]["torch"], data.get("clock", "wall")


def _samples(name: str, data: Mapping[str, Any]) -> Iterator[Sample]:
    for row in data["rows"]:
        if row["part"] != "fused" or "predicted" not in row:
            continue
        case = f"{row['name']}, {row['tokens']} tokens ({name})"
        for policy, said in row["predicted"].items():
            measured = row["ways"][policy]["seconds"]
            launched = [t for n, t in row.get("kernels", {}).get(policy, ()) if _is_fused(n)]
            each = [(kind, Load(*load)) for kind, *load in said.get("each", ())]
            if launched and len(launched) == len(each):
                between = max(measured - sum(launched), 0.0) / len(each)
                for (kind, load), seconds_taken in zip(each, launched, strict=True):
                    yield Sample(case, policy, {kind: load}, seconds_taken + between, 0.0)
            elif not row.get("kernels"):
                work = {kind: Load(**load) for kind, load in said["loads"].items()}
                yield Sample(case, policy, work, measured)


def _is_fused(kernel: str) -> bool:
    return kernel.startswith("triton_")


def _left_out(samples: Sequence[Sample], cache: int, strength: float) -> list[float]:
    """What is said of each sample by a fit to all other cases."""
    unseen = {
        case: _fit([s for s in samples if s.case != case], cache, strength)
        for case in dict.fromkeys(s.case for s in samples)
    }
    return [
        seconds(s.work, replace(unseen[s.case], call=s.calls * unseen[s.case].call))
        for s in samples
    ]


def _error(samples: Sequence[Sample], guesses: Sequence[float]) -> float:
    return statistics.median(
        abs(guess / s.measured - 1) for s, guess in zip(samples, guesses, strict=True)
    )


def _fit(samples: Sequence[Sample], cache: int, strength: float) -> Rates:
    rows = np.array([sample.row() for sample in samples])
    shares = rows / np.array([[sample.measured] for sample in samples])
    alike = _held_together(shares)
    full = np.vstack([shares, np.sqrt(strength * len(samples)) * alike])
    # Columns of like size: launches are in units, bytes in millions.
    scale = np.where(shares.max(axis=0) > 0, shares.max(axis=0), 1.0)
    wanted = np.concatenate([np.ones(len(samples)), np.zeros(len(alike))])
    found = nnls(full / scale, wanted)[0] / scale
    by_kind = {
        kind: Load(*(float(f"{x:.4g}") for x in found[i * len(_NAMES) : (i + 1) * len(_NAMES)]))
        for i, kind in enumerate(KINDS)
    }
    return Rates(by_kind, cache, float(f"{found[-1]:.4g}"))


def _held_together(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rows that say of two rates that they are one, in shares of a usual sample's time."""
    width = len(_NAMES)
    bytes_moved = [_NAMES.index(name) for name in ("read", "reread", "write", "again")]
    pairs = [
        (a * width + i, b * width + i)
        for i in range(width)
        for a, b in itertools.combinations(range(len(KINDS)), 2)
    ] + [
        (kind * width + i, kind * width + j)
        for kind in range(len(KINDS))
        for i, j in itertools.combinations(bytes_moved, 2)
    ]
    usual = shares.mean(axis=0)
    rows = np.zeros((len(pairs), shares.shape[1]))
    for row, (one, other) in zip(rows, pairs, strict=True):
        row[one] = (usual[one] + usual[other]) / 2
        row[other] = -row[one]
    return rows


def _table(samples: Sequence[Sample], guesses: Sequence[float]) -> Iterator[str]:
    yield "| case | policy | measured ms | predicted ms | off by | of stock measured | predicted |"
    yield "|" + "---|" * 7
    sums: dict[tuple[str, str], tuple[float, float]] = {}
    for s, guess in zip(samples, guesses, strict=True):
        measured, guessed = sums.get((s.case, s.policy), (0.0, 0.0))
        sums[s.case, s.policy] = measured + s.measured, guessed + guess
    right = told = 0
    for (case, policy), (seen, guess) in sums.items():
        stock = sums[case, "stock"]
        measured, guessed = seen / stock[0], guess / stock[1]
        if policy != "stock" and abs(measured - 1) > 0.05:
            told += 1
            right += (measured < 1) == (guessed < 1)
        yield (
            f"| {case} | {policy} | {1e3 * seen:.3f} | {1e3 * guess:.3f} "
            f"| {100 * (guess / seen - 1):+.0f}% | x{measured:.3f} | x{guessed:.3f} |"
        )
    yield f"\nWhere measured times differ by more than 5%: {right} of {told} the right way."


def _write(device: str, rates: Rates) -> None:
    from torch_materialize.core.fits import FITS

    everything = {**FITS, device: rates}
    text = _HEAD
    for name, one in sorted(everything.items()):
        text += f'    "{name}": Rates(\n        {{\n'
        for kind, load in one.by_kind.items():
            inside = ", ".join(f"{k}={v!r}" for k, v in asdict(load).items())
            text += f'            "{kind}": Load({inside}),\n'
        text += f"        }},\n        cache={one.cache},\n        call={one.call!r},\n"
        text += f"        source={one.source!r},\n        error={one.error},\n    ),\n"
    _TARGET.write_text(text + "}\n", encoding="utf-8")
    sys.stdout.write(f"written to {_TARGET}; run `ruff format` over it\n")


if __name__ == "__main__":
    main()
