"""What of a planned GPU's code agrees with eager, its Triton interpreted on a CPU.

``python benchmarks/run.py agree --json FILE [TARGET...]`` runs each target eagerly and as stock,
``plan`` and ``plan:numerics=eager`` compile it for the device, whole and in pieces, and adds rows
to the file; a target that it has is not run again.  ``TARGET:training`` compares gradients, too.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from torch_materialize.jobs.agree import agree_target
from torch_materialize.results.agreement import Agreement, Compared
from torch_materialize.results.base import read_json, write_json

_NORMS = Path(__file__).parent / "norm_quant.py"
_CASES = ("fp8_static", "fp8_token", "fp8_group", "int8_token", "mxfp8", "nvfp4")
_TRAINING = ":training"
#: Norms with a quantization, and models with random weights.
TARGETS = (
    *_CASES,
    "fused-add-rmsnorm",
    "language",
    "llama-3.1-8b",
    "qwen3-30b-a3b",
    "t5-base",
    "gpt2",
    "bert-base",
    f"llama-3.1-8b{_TRAINING}",
)


def main(chosen: Any) -> int:
    """Adds rows to the file; targets that it has are not run again."""
    if chosen.json is None:
        raise SystemExit("agree needs --json FILE")
    data = read_json(chosen.json) if chosen.json.exists() else {}
    for name in chosen.names or TARGETS:
        if name in {row["name"] for row in data.get("agreements", ())}:
            continue
        began = time.perf_counter()
        found = _agreement(name, chosen)
        seconds = round(time.perf_counter() - began)
        row = {"name": name, "seconds": seconds, "ways": _ways(found)}
        made = {
            "torch": found.versions["torch"],
            "triton": found.versions.get("triton", ""),
            "device": found.device,
            "tokens": chosen.tokens,
            "layers": chosen.layers,
        }
        if data and made != {key: data[key] for key in made}:
            raise SystemExit(f"{chosen.json} has rows that were made otherwise: name another file")
        data = {**made, "agreements": [*data.get("agreements", ()), row]}
        write_json(chosen.json, data)
        sys.stdout.write(f"{_line(row)}\n")
        sys.stdout.flush()
    return 0


def _agreement(name: str, chosen: Any) -> Agreement:
    target = name.removesuffix(_TRAINING)
    how = {"tokens": chosen.tokens, "layers": chosen.layers, "rounds": 0, "where": False}
    if target in _CASES:
        target = f"{_NORMS}:{target}_built"
    return agree_target(target, device=chosen.device, training=name.endswith(_TRAINING), **how)


def _ways(found: Agreement) -> list[dict[str, Any]]:
    return [
        {
            "policy": way.policy,
            "how": way.how,
            "graphs": way.graphs,
            "as_whole": way.as_whole,
            "outputs": _figures(way.outputs),
            **({} if way.gradients is None else {"gradients": _figures(way.gradients)}),
        }
        for way in found.ways
    ]


def _figures(one: Compared) -> dict[str, float]:
    names = ("elements", "equal", "largest", "scale", "rows", "rows_equal")
    return {name: getattr(one, name) for name in names}


def _line(row: dict[str, Any]) -> str:
    parts = [
        f"{way['policy']}, {way['how']}: {way['outputs']['equal'] / way['outputs']['elements']:.4f}"
        for way in row["ways"]
    ]
    return f"{row['name']}: {'; '.join(parts)} ({row['seconds']} s)"
