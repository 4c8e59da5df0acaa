"""The settings for tests: a plan that acts wherever it saves a byte, and a choice at random."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import torch_materialize as tm
from fuzzing.compiled import check
from fuzzing.programs import Input, Program
from torch_materialize.core.candidates import Candidates, State
from torch_materialize.core.dag import Dag
from torch_materialize.core.devices import DEVICES
from torch_materialize.core.graph import Graph, Kernel, Tensor
from torch_materialize.core.limits import Limits, limits_for
from torch_materialize.core.policy import LIMITS, Policy, parse
from torch_materialize.core.traffic import traffic
from torch_materialize.errors import UnknownPolicyError
from torch_materialize.inductor.offline import capture as capturing
from torch_materialize.inductor.offline.dry_run import dry_run

CPU = DEVICES["cpu"]


def test_the_setting_is_in_the_key_and_cannot_be_met_by_accident():
    prints = {parse("plan", {"limits": one}).fingerprint("1") for one in LIMITS}
    assert len(prints) == len(LIMITS)
    assert parse("plan:limits=usual") == Policy("plan")
    assert parse("plan:limits=random").limits == "random"
    assert parse("tune").limits == parse("plan").limits == "usual"
    with pytest.raises(UnknownPolicyError, match="Did you mean 'strong'"):
        parse("plan:limits=stron")
    with pytest.raises(UnknownPolicyError, match="unknown setting of policy 'tune'"):
        parse("tune:limits=strong")


def _state(nbytes: int, launches: int, store: frozenset[str] | None = None) -> State:
    kernels = tuple(
        Kernel(f"k{i}", "pointwise", {"x": nbytes if i == 0 else 0}, {}) for i in range(launches)
    )
    return State(store, Graph(kernels, {"x": Tensor("x", "", nbytes, "float32")}), Dag((), ()))


def test_one_byte_is_worth_any_number_of_launches():
    stock, one_less = _state(1000, 1), _state(999, 40, frozenset({"a"}))
    for limits, taken in ((Limits(), stock), (limits_for(CPU).strong, one_less)):
        candidates = Candidates(stock, stock, limits, bitwise=False)
        assert (candidates._refusal(one_less) is None) == (taken is one_less)
    candidates = Candidates(stock, stock, Limits().strong, bitwise=False)
    candidates.offer(_state(1000, 1, frozenset({"a"})))
    assert candidates.best is stock


def test_what_guards_against_crashes_stays():
    for device in (None, *DEVICES.values()):
        usual = limits_for(device)
        assert (usual.strong.arguments, usual.strong.body) == (usual.arguments, usual.body)
        assert usual.strong.rates is None is usual.strong.refusing_rates
        assert usual.strong.strong == usual.strong


def captured(function, *shapes):
    mode = capturing.fake_mode()
    with mode:
        inputs = [torch.empty(shape) for shape in shapes]
    (graph,) = capturing.capture(function, inputs, {}, CPU, mode)
    return graph


def residuals(x, a, b):
    first = x + a
    second = first.softmax(-1) + first + b
    return second.softmax(-1), second.mean(-1), (first * second).sum(0)


def shifted(x):
    """Nothing to gain: each value has one reader."""
    return (x.sin() * 2).roll(1, 0).tanh().roll(1, 1)


@pytest.mark.e2e
def test_a_plan_acts_where_it_saves_a_few_bytes():
    graph = captured(residuals, *[(4, 8)] * 3)
    found = {one: dry_run(graph, parse("plan", {"limits": one}), CPU).found for one in LIMITS}
    assert found["usual"].store is None
    assert found["strong"].store is not None
    assert traffic(found["strong"].graph).bytes < traffic(found["strong"].stock).bytes
    # Where a plan acts, it is the plan.
    assert found["random"].store == found["strong"].store


@pytest.mark.e2e
def test_where_no_plan_acts_a_choice_is_drawn():
    graph = captured(shifted, (64, 32))
    strong, drawn = (
        dry_run(graph, parse(f"plan:limits={x}"), CPU).found for x in LIMITS if x != "usual"
    )
    assert strong.store is None
    assert drawn.store
    assert drawn.marked >= drawn.store
    assert traffic(drawn.graph).bytes > traffic(drawn.stock).bytes


@pytest.mark.e2e
@pytest.mark.full
def test_what_is_drawn_is_rounded_like_a_plan():
    program = Program(
        (Input((17, 33), "bfloat16"), Input((17, 33), "bfloat16")),
        (
            "v0 = a0 + a1",
            "v1 = v0.sin()",
            "v2 = v1 * v0",
            "v3 = v2.softmax(-1)",
            "v4 = opaque(v3) + v1",
        ),
        ("v2", "v4"),
    )
    report = check(program, ["plan:limits=random", "plan:limits=random:numerics=eager"])
    assert not report.failures
    assert report.seen["plan:limits=random graphs drawn"] == 1


DRAWN = """
import torch, torch_materialize as tm
from torch_materialize.inductor.hooks import graph_lowering
search = graph_lowering.search
def told(*args, **kwargs):
    found = search(*args, **kwargs)
    print(sorted(found.store))
    return found
graph_lowering.search = told
def shifted(x):
    return (x.sin() * 2).roll(1, 0).tanh().roll(1, 1).cos().roll(2, 1).exp().roll(1, 1) + 1
x = torch.randn(64, 32)
got = torch.compile(shifted, options=tm.options("plan:limits=random"))(x)
torch.testing.assert_close(got, shifted(x))
"""


@pytest.mark.e2e
@pytest.mark.full
@pytest.mark.long
@pytest.mark.skipif(
    torch.__version__.startswith("2.11."),
    reason="its scheduler fails on what is drawn (`simplify_and_reorder`), so nothing is",
)
def test_the_same_graph_draws_the_same_in_every_process(monkeypatch):
    drawn = set()
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", DRAWN],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parent,
        )
        assert done.returncode == 0, done.stderr
        drawn.add(done.stdout)
    (names,) = drawn
    assert names.strip() not in ("", "[]")


@pytest.mark.e2e
@pytest.mark.usefixtures("dynamo")
@pytest.mark.parametrize("way", ["options", "policy", "enable"])
def test_every_way_in_takes_the_setting(way):
    x, policy = torch.randn(64, 32), "plan:limits=random"
    if way == "options":
        got = torch.compile(shifted, options=tm.options(policy))(x)
    else:
        with getattr(tm, way)(policy):
            assert str(tm.active()) == policy
            got = torch.compile(shifted)(x)
    torch.testing.assert_close(got, shifted(x))
