"""Fits the rates of core/cost.py to measured times of fused kernels, and shows how well.

    python benchmarks/fit.py cpu results/bench-cpu-*.json
    python benchmarks/fit.py cpu results/bench-cpu-*.json --write   # into core/fits.py

Being wrong by a tenth counts the same for a graph of microseconds and one of seconds: non-negative
least squares over shares or, where a profiler told the kernels of a GPU apart and each takes the
longer of moving and computing, least squares over logarithms.  Few cases tell little about many
rates, so those of one thing (a byte read, in the three kinds of kernel; a byte read, read again or
written, in one kind) are held together, as strongly as predicts best what share of stock's time a
policy takes in a case that was left out.  Beside each measured time stands what the model says of
it when that case was left out of the fit, in all files.  Only files of the same device, torch,
threads and clock go together.
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
from scipy.optimize import least_squares, nnls

from tables import measured
from torch_materialize.core.cost import KINDS, Load, Rates, seconds, together
from torch_materialize.results.base import read_json

_TARGET = Path(__file__).parents[1] / "src" / "torch_materialize" / "core" / "fits.py"
#: How strongly rates are held together.
_STRENGTHS = (0.0, 1e-2, 1e-1, 1.0, 10.0, 100.0)
_NAMES = tuple(field.name for field in fields(Load))
_LAUNCHES, _OPERATIONS = _NAMES.index("launches"), _NAMES.index("operations")
_BYTES = [i for i in range(len(_NAMES)) if i not in (_LAUNCHES, _OPERATIONS)]
# From here on the fit to single kernels starts, and is drawn back to by a little: seconds.
_USUAL = Load(1e-6, 2e-13, 2e-13, 2e-13, 2e-14, 1e-13)
_DRAWN = 1e-5
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

    @property
    def label(self) -> str:
        """The case in any file."""
        return self.case.partition(" (")[0]

    def row(self) -> list[float]:
        """The model's columns, kind by kind, then the call itself."""
        each = (x for k in KINDS for x in _amounts(self.work.get(k, Load())))
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
    compared = {s.case for s in every if s.policy == "stock"}
    wanted = [s for s in every if s.case in compared]
    samples = [s for s in wanted if not s.case.startswith(tuple(chosen.without))]
    if len({bool(s.calls) for s in samples}) > 1:
        raise SystemExit("in some files a profiler told kernels apart, in others not: fit one kind")
    if len({s.label for s in samples}) < 3:
        raise SystemExit(
            f"a fit needs at least 3 cases of fused kernels; found {len(samples)} rows"
        )
    cache = next(iter(read.values()))["machine"]["cache_bytes"]
    tried = {strength: _left_out(samples, cache, strength) for strength in _STRENGTHS}
    errors = {strength: _error_of_stock(samples, each) for strength, each in tried.items()}
    # The strongest that is about as good: what data say little about stays near the rest.
    strength = max(s for s, error in errors.items() if error <= 1.05 * min(errors.values()))
    guesses = tried[strength]
    sys.stdout.write("\n".join(_table(samples, guesses)) + "\n")
    for one, each in tried.items():
        sys.stdout.write(
            f"held together by {one:g}: median error {_error(samples, each):.1%}, "
            f"as a share of stock's time {errors[one]:.1%}\n"
        )
    source = tuple(path.name for path in chosen.files)
    rates = replace(_fit(samples, cache, strength), source=source, error=round(errors[strength], 3))
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
    for row in measured(data):
        if row["part"] != "fused" or "predicted" not in row:
            continue
        case = f"{row['name']}, {row['tokens']} tokens ({name})"
        for policy, said in row["predicted"].items():
            taken = row["ways"][policy]["seconds"]
            launched = [t for n, t in row.get("kernels", {}).get(policy, ()) if _is_fused(n)]
            each = [(kind, Load(*load)) for kind, *load in said.get("each", ())]
            if launched and len(launched) == len(each):
                between = max(taken - sum(launched), 0.0) / len(each)
                for (kind, load), one in zip(each, launched, strict=True):
                    yield Sample(case, policy, {kind: load}, one + between, 0.0)
            elif "loads" in said and not row.get("kernels"):
                work = {kind: Load(**load) for kind, load in said["loads"].items()}
                yield Sample(case, policy, work, taken)


def _is_fused(kernel: str) -> bool:
    return kernel.startswith("triton_")


def _left_out(samples: Sequence[Sample], cache: int, strength: float) -> list[float]:
    """What is said of each sample by a fit to all other cases."""
    unseen = {
        label: _fit([s for s in samples if s.label != label], cache, strength)
        for label in dict.fromkeys(s.label for s in samples)
    }
    return [
        seconds(s.work.items(), replace(unseen[s.label], call=s.calls * unseen[s.label].call))
        for s in samples
    ]


def _error(samples: Sequence[Sample], guesses: Sequence[float]) -> float:
    return statistics.median(
        abs(guess / s.measured - 1) for s, guess in zip(samples, guesses, strict=True)
    )


def _error_of_stock(samples: Sequence[Sample], guesses: Sequence[float]) -> float:
    """The same of a policy's time as a share of stock's."""
    sums = _sums(samples, guesses)
    return statistics.median(
        abs((guess / sums[case, "stock"][1]) / (seen / sums[case, "stock"][0]) - 1)
        for (case, policy), (seen, guess) in sums.items()
        if policy != "stock"
    )


def _sums(
    samples: Sequence[Sample], guesses: Sequence[float]
) -> dict[tuple[str, str], tuple[float, float]]:
    """Case and policy -> seconds measured and guessed, of all kernels."""
    sums: dict[tuple[str, str], tuple[float, float]] = {}
    for s, guess in zip(samples, guesses, strict=True):
        measured, guessed = sums.get((s.case, s.policy), (0.0, 0.0))
        sums[s.case, s.policy] = measured + s.measured, guessed + guess
    return sums


def _fit(samples: Sequence[Sample], cache: int, strength: float) -> Rates:
    if not any(sample.calls for sample in samples):
        return _fit_kernels(samples, cache, strength)
    rows = np.array([sample.row() for sample in samples])
    shares = rows / np.array([[sample.measured] for sample in samples])
    alike = _held_together(shares)
    full = np.vstack([shares, np.sqrt(strength * len(samples)) * alike])
    # Columns of like size: launches are in units, bytes in millions.
    scale = np.where(shares.max(axis=0) > 0, shares.max(axis=0), 1.0)
    wanted = np.concatenate([np.ones(len(samples)), np.zeros(len(alike))])
    found = nnls(full / scale, wanted)[0] / scale
    return Rates(_by_kind(found[:-1]), cache, float(f"{found[-1]:.4g}"))


def _by_kind(found: npt.NDArray[np.float64]) -> dict[str, Load]:
    each = found.reshape(len(KINDS), len(_NAMES))
    return {
        kind: Load(*(float(f"{x:.4g}") for x in own)) for kind, own in zip(KINDS, each, strict=True)
    }


def _fit_kernels(samples: Sequence[Sample], cache: int, strength: float) -> Rates:
    """The same where each sample is one kernel, which moves and computes at the same time."""
    usual = np.array([getattr(_USUAL, name) for name in _NAMES])
    kinds = np.array([KINDS.index(next(iter(sample.work))) for sample in samples])
    loads = np.array([_amounts(next(iter(sample.work.values()))) for sample in samples]) * usual
    measured = np.array([sample.measured for sample in samples])
    weight = np.sqrt(strength * len(samples) / 1e3)

    def wrong(logarithms: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        table = logarithms.reshape(len(KINDS), -1)
        each = loads * np.exp(table)[kinds]
        moving, computing = each[:, _BYTES].sum(axis=1), each[:, _OPERATIONS]
        taken = each[:, _LAUNCHES] + together(moving, computing, True)
        apart = [
            table - table.mean(axis=0),
            table[:, _BYTES] - table[:, _BYTES].mean(axis=1)[:, None],
        ]
        held = np.concatenate([weight * part.ravel() for part in apart])
        drawn = np.sqrt(_DRAWN * len(samples)) * logarithms
        return np.concatenate([np.log(taken / measured), held, drawn])

    start = np.zeros(len(KINDS) * len(_NAMES))
    found = least_squares(wrong, start, loss="soft_l1", f_scale=0.15).x
    rates = np.exp(found.reshape(len(KINDS), -1)) * usual
    return Rates(_by_kind(rates.ravel()), cache, overlap=True)


def _amounts(load: Load) -> list[float]:
    return [getattr(load, name) for name in _NAMES]


def _held_together(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rows that say of two rates that they are one, in shares of a usual sample's time."""
    width = len(_NAMES)
    pairs = [
        (a * width + i, b * width + i)
        for i in range(width)
        for a, b in itertools.combinations(range(len(KINDS)), 2)
    ] + [
        (kind * width + i, kind * width + j)
        for kind in range(len(KINDS))
        for i, j in itertools.combinations(_BYTES, 2)
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
    sums = _sums(samples, guesses)
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
        text += f"        source={one.source!r},\n        error={one.error},\n"
        text += f"        overlap={one.overlap},\n    ),\n"
    _TARGET.write_text(text + "}\n", encoding="utf-8")
    sys.stdout.write(f"written to {_TARGET}; run `ruff format` over it\n")


if __name__ == "__main__":
    main()
