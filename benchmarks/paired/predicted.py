"""What a trial lowering says of a case: bytes, kernels, the planner's estimate of peak memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, astuple
from typing import Any

import torch

from torch_materialize.core.cost import KINDS, Load, each_load
from torch_materialize.core.devices import Device
from torch_materialize.core.memory import peak_bytes
from torch_materialize.core.policy import parse
from torch_materialize.core.traffic import Traffic, traffic
from torch_materialize.inductor.offline import capture as capturing
from torch_materialize.inductor.offline.dry_run import dry_run
from torch_materialize.sweep.construct import zeros_mode

from .cases import Case
from .ways import alone, policy_of

_NOTHING = Traffic(0, 0, 0, 0)


def predict(case: Case, ways: Sequence[str], device: Device, cache: int) -> dict[str, Any]:
    """Way -> figures in bytes; of several graphs the sum, and of peaks the highest.

    ``cache`` is the device's last cache, in bytes, for what is read again.
    """
    mode = zeros_mode()
    with torch.device("cpu"):
        made = case.make(mode)
    wanted = {way: parse(policy_of(way)) for way in ways}
    with alone(case.part):
        graphs = capturing.capture_for(
            list(dict.fromkeys(wanted.values())),
            made.run,
            made.args,
            made.kwargs,
            device,
            mode,
            training=made.training,
        )
    found = {}
    for way, policy in wanted.items():
        outcomes = [dry_run(graph, policy, device) for graph in graphs[policy]]
        moved = sum((traffic(o.graph) for o in outcomes), _NOTHING)
        each = [pair for outcome in outcomes for pair in each_load(outcome.dag, cache)]
        by_kind = {name: Load() for name in KINDS}
        for name, load in each:
            by_kind[name] += load
        found[way] = {
            "bytes": moved.bytes,
            "read": moved.read_bytes,
            "write": moved.write_bytes,
            "kernels": moved.kernels,
            "peak_estimate": max(peak_bytes(o.dag, o.dag.homes()) for o in outcomes),
            "loads": {kind: asdict(load) for kind, load in by_kind.items()},
            "each": [(name, *astuple(load)) for name, load in each],
        }
    return found
