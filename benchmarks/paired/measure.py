"""Times one case in all ways, interleaved, and puts what is predicted beside it."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from torch_materialize.core.devices import Device
from torch_materialize.core.paired import interleaved, median_interval, ratios

from . import clock
from .autotuned import Tuned, choices_put_off, kernel_times
from .cases import Case, Made
from .machine import last_cache
from .predicted import predict
from .ways import AGAIN, EAGER, STOCK, is_predicted, steps

COPY = "copy"
# How often CUDA graphs are captured, each time into other memory.
_PLACES = 3


@dataclass(frozen=True)
class Effort:
    """How much time a case may take: rounds at most and at least, seconds of timing.

    On a GPU it is taken anew for each of the places in memory that are tried.
    """

    rounds: int = 25
    least: int = 5
    seconds: float = 20.0


@dataclass
class Prepared:
    """A case that is built and compiled in every way.

    Attributes:
        row: what is known of it so far.
        steps: way -> what runs one step.
        inputs: sets of positional inputs, as many as it takes to get past the cache of a GPU.
    """

    row: dict[str, Any]
    made: Made
    device: str
    steps: dict[str, Callable[[], Any]]
    inputs: list[tuple[Any, ...]]


def prepared(case: Case, ways: tuple[str, ...], device: str) -> Prepared:
    """Builds and compiles a case.

    Raises:
        Exception: whatever the model, Inductor or the device raises.
    """
    with torch.device(device):
        made = case.make(None)
        inputs = _rotated(made, device)
    if device == "cuda":
        torch.cuda.empty_cache()  # beside other cases
    row = {**case.about, "unit_bytes": made.unit, "compile_seconds": {}, "missing": {}}
    if device == "cuda":
        row |= {"configurations": {}, "kernels": {}}
    found = Prepared(row, made, device, {}, inputs)
    for way, compiled in steps(made, ways, case.part):
        if device == "cuda" and way == AGAIN:  # compiling is what the time there is spent on
            found.steps[way] = found.steps[STOCK]
            continue
        start = time.perf_counter()
        # What `tune` times must have been tuned.
        later = device == "cuda" and not way.startswith("tune")
        with _noted(row, way), choices_put_off() if later else contextlib.nullcontext():
            found.steps[way] = compiled()
        row["compile_seconds"][way] = round(time.perf_counter() - start, 2)
    return found


def timed(found: Prepared, effort: Effort) -> dict[str, Any]:
    """Times what is compiled; nothing else should run meanwhile.

    Raises:
        RuntimeError: something would be compiled anew, and not be what it is taken for.
    """
    with torch.compiler.set_stance("fail_on_recompile"):
        return _timed_as_compiled(found, effort)


def _timed_as_compiled(found: Prepared, effort: Effort) -> dict[str, Any]:
    row = {**found.row, "load_before": _load()}
    memory: dict[str, int] = {}
    tuned: dict[str, Tuned] = {}
    steps = found.steps
    if found.device == "cuda":
        clock.warm_up()
        tuned = _tuned(steps, row)
        steps = {way: step for way, step in steps.items() if way in tuned or way == EAGER}
        for way, step in steps.items():
            with _noted(row, way):
                memory[way] = _allocated(step)
    copying, moved = clock.copy_of(found.device)
    times: dict[str, list[float]] = {}
    # Which buffers share a set of the cache is a matter of where they come to lie: graphs that are
    # kept keep their memory from the next.
    kept = []
    for _ in range(_PLACES if found.device == "cuda" else 1):
        runs = {COPY: _timed([copying], found.device)}
        for way, step in steps.items():
            if way in tuned:
                tuned[way].apply()
            with _noted(row, way):
                each = [_with(found.made, inputs, step) for inputs in found.inputs]
                runs[way] = _timed(each, found.device)
        kept.append(runs)
        for way, own in _times(runs, effort).items():
            times.setdefault(way, []).extend(own)
    # A way that could not be captured once is not compared.
    times = {way: own for way, own in times.items() if len(own) == len(times[STOCK])}
    row["ways"] = _figures(times, memory)
    row["rounds"] = len(times[COPY])
    row["copy_bandwidth"] = moved / statistics.median(times[COPY])
    row["load_after"] = _load()
    return row


def _tuned(steps: dict[str, Callable[[], Any]], row: dict[str, Any]) -> dict[str, Tuned]:
    """The kernels of each way with their configurations; both, and their times, go into the row.

    A way whose kernels cannot be tuned is named in the row, and is not there.
    """
    found: dict[str, Tuned] = {}
    for way, step in steps.items():
        if way == AGAIN:
            found[way] = found[STOCK]
        elif way != EAGER:
            with _noted(row, way):
                found[way] = Tuned(step)
                row["configurations"][way] = found[way].configurations
                row["kernels"][way] = kernel_times(step)
    return found


@contextlib.contextmanager
def _noted(row: dict[str, Any], way: str) -> Iterator[None]:
    """A way that fails is named in the row, the rest goes on; without stock there is no row."""
    try:
        yield
    except Exception as error:
        if way == STOCK:
            raise
        row["missing"][way] = f"{type(error).__name__}: {str(error).splitlines()[0]}"


def _rotated(made: Made, device: str) -> list[tuple[Any, ...]]:
    nbytes = sum(x.numel() * x.element_size() for x in made.args if isinstance(x, torch.Tensor))
    if device == "cpu" or not nbytes:
        return [made.args]
    count = clock.copies(nbytes, last_cache(device))
    return [made.args, *(tuple(x.clone() for x in made.args) for _ in range(count - 1))]


def _with(made: Made, args: tuple[Any, ...], step: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        made.args = args
        return step()

    return run


def _timed(each: Sequence[Callable[[], Any]], device: str) -> Callable[[], float]:
    if device == "cpu":
        return clock.on_cpu(each[0])
    try:
        return clock.replayed(each)
    except RuntimeError:  # something that a CUDA graph cannot hold
        torch.cuda.synchronize()
        return clock.on_gpu(each)


def _allocated(step: Callable[[], Any]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _times(runs: dict[str, Callable[[], float]], effort: Effort) -> dict[str, list[float]]:
    for run in runs.values():
        run()
    start = time.perf_counter()

    def enough(done: int) -> bool:
        return done >= effort.least and time.perf_counter() - start > effort.seconds

    rounds = list(interleaved(runs, effort.rounds, enough))
    return {name: [one[name] for one in rounds] for name in runs}


def _figures(times: dict[str, list[float]], memory: dict[str, int]) -> dict[str, dict[str, Any]]:
    found = {}
    for way, own in times.items():
        if way == COPY:
            continue
        of_stock = median_interval(ratios(own, times[STOCK]))
        found[way] = {
            "seconds": statistics.median(own),
            "fastest": min(own),
            "of_stock": {k: round(v, 4) for k, v in asdict(of_stock).items()},
            "samples": [float(f"{one:.4g}") for one in own],
        }
        if way in memory:
            found[way]["max_memory_allocated"] = memory[way]
    return found


def predicted(case: Case, device: Device, cache: int, row: dict[str, Any]) -> dict[str, Any]:
    """Bytes beside a row's times: ``predicted``, or ``not_predicted`` with the reason.

    ``device`` need not be here; ``cache`` is its last cache, in bytes.
    """
    try:
        found = predict(case, list(filter(is_predicted, row["ways"])), device, cache)
    except Exception as error:  # noqa: BLE001 - times stand without a prediction
        return {"not_predicted": f"{type(error).__name__}: {error}"}
    for way, figures in found.items():
        if case.part == "fused":
            figures["achieved_bandwidth"] = figures["bytes"] / row["ways"][way]["seconds"]
    return {"predicted": found}


def _load() -> float:
    with open("/proc/loadavg", encoding="utf-8") as file:
        return float(file.read().split()[0])
