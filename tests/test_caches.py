"""A policy is part of the keys: fresh processes over one cache folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from fresh import upstream

pytestmark = pytest.mark.e2e

PROGRAM = """
import contextlib, json, sys
import torch
import torch_materialize as tm
from torch._dynamo.utils import counters
from torch_materialize.core import local

how, name = sys.argv[1:3]
asked = 0
decide = local.decide
def spy(facts):
    global asked
    asked += 1
    return decide(facts)
local.decide = spy

def f(x, y):
    s = x + y
    return (s * 2).sum(), (s - 1).sum(), s.sum(-1).cos().sum()

if "fail" in sys.argv:
    from torch_materialize.inductor.hooks import cast_passes
    def fail(*_):
        raise RuntimeError("planted")
    cast_passes.HideCasts._note_and_hide = fail

x = torch.arange(4096.0).reshape(64, 64).div(4096).requires_grad_()
y = x.detach().clone()
scope = tm.policy(name) if how == "policy" and name != "none" else contextlib.nullcontext()
options = tm.options(name) if how == "options" and name != "none" else {}
with scope:
    sum(torch.compile(f, options=options)(x, y)).backward()
inductor, aot = counters["inductor"], counters["aot_autograd"]
print(json.dumps({
    "asked": asked,
    "fx_hit": inductor["fxgraph_cache_hit"],
    "fx_miss": inductor["fxgraph_cache_miss"],
    "aot_hit": aot["autograd_cache_hit"],
    "aot_miss": aot["autograd_cache_miss"],
    "bypass": inductor["fxgraph_cache_bypass"] + aot["autograd_cache_bypass"],
}))
"""


CACHES = {
    "TORCHINDUCTOR_FX_GRAPH_CACHE": "1",
    "TORCHINDUCTOR_AUTOGRAD_CACHE": "1",
    "TORCH_MATERIALIZE_STRICT": "1",
}


# Torch reads the variables when it is imported, as it was before this process began.
CACHES_ON = """
from torch._functorch import config as functorch_config
from torch._inductor import config
config._config["fx_graph_cache"].env_value_force = True
functorch_config._config["enable_autograd_cache"].env_value_force = True
"""


@pytest.fixture
def run(tmp_path):
    """Runs the program in a process of its own, over the cache folder of the test."""
    folder = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "caches")}

    def run(how: str, name: str, *more: str, **environment: str) -> dict[str, int]:
        arguments = [how, name, *more]
        if any(variable.startswith("TORCHINDUCTOR_") for variable in environment):
            # Torch reads them when it is imported.
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", PROGRAM, *arguments],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, **CACHES, **folder, **environment},
            )
        else:
            done = upstream().run(CACHES_ON + PROGRAM, *arguments, **folder, **environment)
        assert done.returncode == 0, done.stderr
        return {**json.loads(done.stdout), "stderr": done.stderr}

    return run


def missed(seen: dict[str, int]) -> bool:
    return seen["aot_miss"] > 0 and seen["aot_hit"] == 0 and seen["fx_hit"] == 0


def hit(seen: dict[str, int]) -> bool:
    return seen["aot_hit"] > 0 and seen["aot_miss"] == 0 and seen["asked"] == 0


def test_a_policy_is_served_what_it_kept_and_not_what_stock_keeps(run):
    assert missed(run("policy", "none"))
    assert missed(run("policy", "traffic"))
    # Both ways of asking share an entry.
    assert hit(run("options", "traffic"))


@pytest.mark.full
@pytest.mark.parametrize("how", ["policy", "options"])
def test_stock_and_traffic_never_share_an_entry(run, how):
    stock = run(how, "none")
    assert missed(stock)
    assert stock["asked"] == 0
    traffic = run(how, "traffic")
    assert missed(traffic), traffic
    assert traffic["asked"] > 0
    assert hit(run(how, "traffic"))
    assert hit(run(how, "none"))
    # Saying "stock" keeps stock's keys.
    assert hit(run(how, "stock"))
    assert stock["bypass"] == traffic["bypass"] == 0


@pytest.mark.full
def test_plan_has_keys_of_its_own(run):
    assert missed(run("policy", "traffic"))
    assert missed(run("policy", "plan"))
    assert hit(run("options", "plan"))


@pytest.mark.full
@pytest.mark.parametrize("how", ["policy", "options"])
def test_what_is_left_to_stock_before_the_key_is_asked_for_is_not_kept(run, how):
    """Under the key of `plan` it would be served when nothing fails any more."""
    failed = run(how, "plan", "fail", TORCH_MATERIALIZE_STRICT="0")
    assert failed["stderr"].count("planted") == 1
    assert failed["bypass"] > 0
    assert missed(run(how, "plan"))
    assert hit(run(how, "plan"))


@pytest.mark.full
def test_fx_graph_cache_alone_keeps_them_apart(run):
    alone = {"TORCHINDUCTOR_AUTOGRAD_CACHE": "0"}
    assert run("policy", "none", **alone)["fx_miss"] > 0
    first = run("policy", "traffic", **alone)
    assert first["fx_hit"] == 0 < first["fx_miss"]
    again = run("policy", "traffic", **alone)
    assert again["fx_miss"] == 0 < again["fx_hit"]
    stock = run("policy", "none", **alone)
    assert stock["fx_miss"] == 0 < stock["fx_hit"]


@pytest.mark.full
def test_parallel_compile_workers_change_nothing(run):
    seen = run("policy", "traffic", TORCHINDUCTOR_COMPILE_THREADS="2")
    assert missed(seen)
    assert seen["asked"] > 0
    assert hit(run("policy", "traffic", TORCHINDUCTOR_COMPILE_THREADS="1"))


@pytest.mark.full
@pytest.mark.parametrize("how", ["policy", "options"])
def test_out_of_process_compile_is_told_and_compiles_as_stock(run, how):
    seen = run(how, "traffic", TORCHINDUCTOR_FX_COMPILE_MODE="SUBPROCESS")
    assert seen["asked"] == 0
    assert seen["stderr"].count("does not reach Inductor's out-of-process compile") == 1
    # What was compiled as stock must not be served to `traffic`.
    later = run(how, "traffic")
    assert later["asked"] > 0
