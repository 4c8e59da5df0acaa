"""The same graph gets the same plan, in any process and however busy the machine is."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import pytest
import torch

import deciding
from torch_materialize.core import limits as core_limits
from torch_materialize.core.deadline import Deadline, OutOfTime
from torch_materialize.core.limits import limits_for
from torch_materialize.inductor.fx.decision import names_of
from torch_materialize.inductor.lower.virtual_gpu import planned_device
from torch_materialize.inductor.offline import capture as capturing
from torch_materialize.inductor.plan.search import search


@pytest.mark.e2e
def test_another_hash_seed_changes_nothing(dynamo):
    """Beside the seed of this process, which is drawn where none is set."""
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    started = _started(seed, torch.get_num_threads(), "gathers")
    here = deciding.decided("gathers")
    # Stored by a plan, or beside stock's choice.
    assert any(one["decision"]["marked"] for one in here.values())
    assert _answer(started) == here


@pytest.mark.e2e
@pytest.mark.full
@pytest.mark.parametrize("how", [(), pytest.param(("by-buffers",), marks=pytest.mark.long)])
def test_hash_seeds_change_nothing(how):
    first, second = map(_answer, [_started(seed, 1, *how) for seed in ("1", "2")])
    assert any(one["decision"]["store"] for one in first.values())
    assert first == second


def _started(seed: str, threads: int, *how: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", deciding.__file__, *how],
        env={**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        text=True,
    )


def _answer(process: subprocess.Popen[str]) -> Any:
    return json.loads(process.communicate(timeout=500)[0])


@pytest.mark.e2e
def test_a_busy_machine_decides_alike(monkeypatch):
    """On a machine on which everything takes 10,000 times as long."""
    function, device, shapes = deciding.GRAPHS["pieces"]
    mode = capturing.fake_mode()
    with mode:
        inputs = [torch.empty(shape) for shape in shapes]
    (graph,) = capturing.capture(function, inputs, {}, device, mode)
    limits = replace(limits_for(device), emergency=math.inf)
    with planned_device(device):
        idle = search(graph, limits, certify=False)
        clock, start = time.monotonic, time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: start + 1e4 * (clock() - start))
        busy = search(graph, limits, certify=False)
    assert busy.rounds == idle.rounds > 1
    assert names_of(busy) == names_of(idle)


def test_the_emergency_is_no_plan():
    deadline = Deadline(0.0)
    with pytest.raises(OutOfTime, match="left to stock"):
        deadline.check()
    with pytest.raises(OutOfTime):
        deadline.left()
    assert Deadline(60.0).left() > 0
    assert core_limits.Limits.emergency > 60
