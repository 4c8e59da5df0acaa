"""The one runner of measurements; each writes a result file, and the tables of it to stdout.

    python benchmarks/run.py gpu --json FILE      # all that needs a GPU, in ten minutes
    python benchmarks/run.py gpu --json FILE --device cpu --quick   # the same path, on a CPU
    python benchmarks/run.py time "vllm-style decoder" --part fused --json FILE
    python benchmarks/run.py --help                                 # what else there is

``time`` runs all ways of a case interleaved in one process; stock is timed twice, and what lies
between the two is noise.  ``fused`` is the kernels that Inductor fuses and writes itself, with
matmuls, convolutions and attention replaced by a stand-in (paired/opaque.py).  On a GPU, steps are
replayed from CUDA graphs.  Cases are compiled side by side, each in a process of its own, and timed
one at a time, meanwhile.  A file is rewritten after every case: what is cut short leaves what it
has.  On a CPU bytes are predicted at once; on a GPU by ``predict FILE``, later and anywhere.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paired.apart import Measurement
    from paired.cases import Case

_SOURCE = Path(__file__).resolve().parents[1] / "src"
_NEEDED = ("torch", "triton", "numpy", "scipy", "msgspec", "packaging")
_POLICIES = ("traffic", "plan")
# Ways to round as eager does: ours, and upstream's, of which the last is there from torch 2.15 on.
_AS_EAGER = (
    "plan:numerics=eager",
    "stock, emulate_precision_casts=True",
    "stock, numerics=strict_pointwise",
)
_ROUNDED = ("plan:numerics=eager", "plan:numerics=stock", "tune")
# How many cases the memory of one GPU holds; each that is compiled takes a core.
_MOST_AT_ONCE = 14
_TEXTS = {"action": "append"}
_FILE = {"type": Path}
_MODELS: dict[str, dict[str, Any]] = {
    "names": {"nargs": "+", "help": "models of the corpus"},
    "--mode": {**_TEXTS, "choices": ["inference", "training"]},
    "--device": {"default": "h200"},
    "--built-in": {
        "action": "store_true",
        "help": "names are of built-in models instead, with all of their layers",
    },
}
#: Other commands: name -> the module whose ``main`` it is, its help, its arguments.
_COMMANDS: dict[str, tuple[str, str, dict[str, dict[str, Any]]]] = {
    "compile": (
        "compiling",
        "what a policy adds to a cold compile on a CPU, paired with stock",
        {
            "cases": {"nargs": "*", "help": "default: all"},
            "--policy": {"default": "plan"},
            "--pairs": {"type": int, "default": 5},
        },
    ),
    "ablation": (
        "ablation",
        "what each part of the search is worth: models of the corpus planned without it",
        _MODELS,
    ),
    "kept": (
        "kept",
        "what forwards keep for backwards, and what both move: stock, upstream's budget, ours",
        {
            **{name: _MODELS[name] for name in ("names", "--device")},
            "--budget": {"type": float, "default": 0.7},
        },
    ),
    "agree": (
        "agreeing",
        "what of a planned GPU's code agrees with eager, its Triton interpreted on a CPU",
        {
            "names": {"nargs": "*", "help": "targets; default: all"},
            "--device": _MODELS["--device"],
            "--tokens": {"type": int, "default": 16},
            "--layers": {"type": int, "default": 2},
        },
    ),
    "trained": (
        "trained",
        "a real training run on a CPU: losses, what is kept and alive, beside stock and estimate",
        {"--steps": {"type": int, "default": 200}},
    ),
    "search-cost": (
        "search_cost",
        "CPU seconds of a search beside those of one lowering of the same graph",
        _MODELS,
    ),
    "fuzz": (
        "fuzz",
        "random programs under every policy, or random graphs for the planner alone",
        {
            "what": {"choices": ["compiled", "planner"]},
            "--examples": {"type": int, "default": 100},
            "--seed": {"type": int, "default": 0},
            "--minutes": {"type": float, "default": float("inf")},
            "--lines": {"type": int, "default": 14, "help": "most lines of a program"},
            "--device": {
                "default": "cpu",
                "help": "cpu or cuda; for a planned GPU (h200) code is interpreted",
            },
            "--limits": {
                "choices": ["mixed", "strong", "random", "usual"],
                "default": "mixed",
                "help": "when a plan acts: where it saves a byte, at random, either, or as usual",
            },
            "--policy": {**_TEXTS, "help": "compared with stock; default: all"},
        },
    ),
    "vllm-bytes": (
        "vllm_cpu",
        "bytes and kernels of what vLLM would compile, on a GPU that is not here",
        {
            "--model": _TEXTS,
            "--cut": _TEXTS,
            "--tokens": {**_TEXTS, "type": int},
            "--layers": {"type": int},
            "--device": {"default": "h200"},
        },
    ),
    "vllm-start": (
        "vllm_cpu",
        "cold and warm starts of a tiny engine, in pairs, on a machine that does nothing else",
        {
            "--pairs": {"type": int, "default": 3},
            "--load": {"type": float, "default": 1.5, "help": "wait until it is below"},
        },
    ),
    "vllm-answers": (
        "vllm_cpu",
        "what vLLM's engines agree in: those in a folder, and seven of each model named",
        {"folder": _FILE, "--model": _TEXTS},
    ),
    "vllm-gpu": (
        "vllm_gpu",
        "latency, serving and accuracy of vLLM on a GPU, two hours",
        {
            "--folder": {**_FILE, "required": True, "help": "for results and compile caches"},
            "--model": {"default": "meta-llama/Llama-3.1-8B"},
            "--build": _TEXTS,
            "--port": {"type": int, "default": 8321},
            "--dry": {"action": "store_true", "help": "only print the commands"},
            "--table": {"action": "store_true", "help": "only print the table"},
        },
    ),
}


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; none of them is imported."""
    raw = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    commands = made.add_subparsers(dest="command", required=True)
    one = commands.add_parser("predict", help="bytes beside the times of a file, in its place")
    one.add_argument("json", type=Path)
    for name, text in (
        ("time", "paired times of cases"),
        ("numerics", "the same of models in bf16 on a CPU, under what rounds as eager does"),
        ("answers", "errors of cases against fp64, and how much equals eager"),
        ("gpu", "answers, for a quarter of the seconds, then times, on a GPU"),
    ):
        one = commands.add_parser(name, help=text)
        one.add_argument("names", nargs="*", help="cases whose label begins so; default: all")
        one.add_argument("--json", type=Path, required=True, help="where the results go")
        usual = "cuda" if name == "gpu" else "cpu"
        one.add_argument("--device", choices=("cpu", "cuda"), default=usual)
        one.add_argument("--part", choices=("fused", "whole"), help="default: both")
        one.add_argument("--tokens", type=int, action="append")
        one.add_argument("--way", action="append", help="beside stock; default: traffic, plan, ...")
        one.add_argument("--rounds", type=int, default=25)
        one.add_argument("--case-seconds", type=float, help="of timing, for a case")
        one.add_argument("--seconds", type=float, default=540.0 if name == "gpu" else 3600.0)
        one.add_argument("--threads", type=int, help="of a CPU; default: torch's own choice")
        one.add_argument("--quick", action="store_true", help="few and small cases")
        one.add_argument("--list", action="store_true", help="only name the cases")
    for name, (_, text, arguments) in _COMMANDS.items():
        one = commands.add_parser(name, help=text)
        for flag, how in arguments.items():
            one.add_argument(flag, **how)
        one.add_argument("--json", type=Path, help="where the results go")
    return made


def main(arguments: list[str] | None = None) -> int:
    chosen = parser().parse_args(arguments)
    path = chosen.json
    if path and not path.resolve().parent.is_dir():
        raise SystemExit(f"--json: there is no folder {path.resolve().parent}")
    require("cuda" if getattr(chosen, "device", "") == "cuda" else "cpu")
    if chosen.command in _COMMANDS:
        status: int = importlib.import_module(_COMMANDS[chosen.command][0]).main(chosen)
    elif chosen.command == "predict":
        status = predict(chosen.json)
    else:
        status = measure(chosen)
    if path and path.is_file():
        from tables import tables

        sys.stdout.write("\n".join(tables([path.resolve()])) + "\n")
    return status


def require(device: str) -> None:
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


def measure(chosen: argparse.Namespace) -> int:
    deadline = time.monotonic() + chosen.seconds
    if chosen.threads:
        os.environ["OMP_NUM_THREADS"] = str(chosen.threads)
    # Each case has a process; a pool of compile workers for each would only be in the way.
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    what = {"gpu": ("answers", "times"), "answers": ("answers",)}.get(chosen.command, ("times",))
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", folder)
        kept: dict[str, Any] = {}
        if "answers" in what:
            until = deadline - (0.75 * chosen.seconds if "times" in what else 0)
            kept["correctness"] = _rows("correctness", kept, answers(chosen), until, chosen)
        if "times" in what:
            _rows("rows", kept, timings(chosen), deadline, chosen)
    if "times" in what and chosen.command != "numerics" and chosen.device == "cpu":
        return 0 if chosen.list else predict(chosen.json)
    return 0


def answers(chosen: argparse.Namespace) -> Iterator[Measurement]:
    """Whole models of a few tokens, narrow enough for fp64."""
    tokens, divisor = tuple(chosen.tokens or (64,)), 16 if chosen.quick else 8
    ways = tuple(chosen.way or (_POLICIES if chosen.quick else (*_POLICIES, *_ROUNDED)))
    yield from _wanted(chosen, tokens, divisor, lambda part: ways, None, "whole")


def timings(chosen: argparse.Namespace) -> Iterator[Measurement]:
    """Cases to be timed, the most telling first."""
    from paired.cases import TOKENS
    from paired.measure import Effort
    from paired.ways import EAGER, beside_stock, is_known

    seconds = chosen.case_seconds or (20.0 if chosen.device == "cpu" else 0.5)
    effort = Effort(chosen.rounds, min(5, chosen.rounds), seconds)
    tokens, divisor = tuple(chosen.tokens or TOKENS), 0
    if chosen.quick:
        tokens, divisor, effort = (1, 64), 16, Effort(rounds=5, least=3, seconds=2.0)

    def ways(part: str) -> tuple[str, ...]:
        usual = _POLICIES if part == "fused" or chosen.quick else (*_POLICIES, EAGER)
        if chosen.command == "numerics":
            usual = tuple(way for way in _AS_EAGER if is_known(way))
        return beside_stock(tuple(chosen.way or usual))

    yield from _wanted(chosen, tokens, divisor, ways, effort, chosen.part)


def _wanted(
    chosen: argparse.Namespace, tokens: Any, divisor: int, ways: Any, effort: Any, part: str | None
) -> Iterator[Measurement]:
    from paired.apart import Measurement
    from paired.cases import cases, narrow

    every: list[Case] = [
        case
        for case in cases(chosen.device, tokens, divisor)
        if part in (None, case.part)
        and (not chosen.quick or case.tokens in tokens)
        and (chosen.command != "numerics" or narrow(case))
    ]
    order = chosen.names or [""]
    found = dict.fromkeys(c for name in order for c in every if c.label.startswith(name))
    for case in found:
        yield Measurement(case.label, chosen.device, tokens, divisor, ways(case.part), effort)


def _rows(
    key: str,
    kept: dict[str, Any],
    wanted: Iterable[Measurement],
    deadline: float,
    chosen: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Measures until ``deadline``; the rows so far are on disk under ``key``, beside ``kept``."""
    from paired.apart import rows
    from paired.machine import describe, save

    every = list(wanted)
    if chosen.list:
        sys.stdout.write("".join(f"{one.label} ({one.case().note})\n" for one in every))
        return []
    cores = len(os.sched_getaffinity(0))
    at_once = max(1, min(_MOST_AT_ONCE, cores - 1)) if chosen.device == "cuda" else 1
    ways = list(dict.fromkeys(way for one in every for way in one.ways))
    left, found = [one.label for one in every], []
    for one, row in rows(every, at_once, deadline):
        found.append(row)
        left.remove(one.label)
        sys.stderr.write(f"{one.label}: {row.get('error') or row.get('wrong') or 'done'}\n")
        content = {**kept, "machine": describe(chosen.device), key: found, "not_reached": left}
        save(chosen.json, **content, ways=ways, pages_kept=chosen.device == "cpu")
    return found


def predict(path: Path) -> int:
    """Bytes, kernels and peak memory beside times, by this checkout; rows that have them keep them.

    The device that was measured need not be here.
    """
    from paired.cases import cases
    from paired.machine import commit, of_table
    from paired.measure import predicted
    from torch_materialize.core.devices import CPU
    from torch_materialize.results.base import read_json, write_json

    data = read_json(path)
    here = data["machine"]
    kind = "cuda" if "cuda" in here else "cpu"
    device = CPU if kind == "cpu" else of_table(here["device"])
    if device is None:
        raise SystemExit(f"{path}: {here['device']} is not a device of our table")
    for row in data["rows"]:
        about = row["name"], row["part"], row["tokens"], row["note"]
        every = [c for d in (0, 8, 16) for c in cases(kind, (row["tokens"],), d)]
        case = next((c for c in every if (c.name, c.part, c.tokens, c.note) == about), None)
        if "ways" not in row or "predicted" in row or case is None:
            continue
        row.pop("not_predicted", None)
        row.update(predicted(case, device, here["cache_bytes"], row))
        sys.stderr.write(f"{case.label}: {row.get('not_predicted', 'predicted')}\n")
        write_json(path, {**data, "predicted_by": commit()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
