"""One decision in all processes of a group, and no process that waits for another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.fx.experimental.proxy_tensor import make_fx

import ranks_job
import torch_materialize as tm
from torch_materialize.core.devices import CPU
from torch_materialize.core.policy import parse
from torch_materialize.inductor.fx.decision import GIVEN_UP, Decision
from torch_materialize.inductor.fx.post_grad import PostGrad
from torch_materialize.inductor.hooks import graph_lowering
from torch_materialize.inductor.hooks.policy_pass import PolicyPass
from torch_materialize.inductor.offline import capture as capturing
from torch_materialize.inductor.offline.plan_making import plan_of
from torch_materialize.inductor.plan import process_group, ranks
from torch_materialize.results import plan_file

PLAN, TUNE = parse("plan"), parse("tune")


def graph_of(function, *shapes) -> PostGrad:
    inputs = [torch.empty(shape) for shape in shapes]
    return PostGrad(make_fx(function, tracing_mode="fake")(*inputs), tuple(inputs), None)


def key_of(function, *shapes) -> str:
    return ranks.graph_key(graph_of(function, *(shapes or [(8, 8)])), PLAN)


def part_from(n: int):
    """What a rank makes of its part of a table that begins at ``n``."""

    def part(x):
        return torch.where(x >= n, x - n, 0)[n : n + 2].sum(0)

    return part


def test_a_key_is_without_what_a_rank_has_for_itself():
    assert key_of(part_from(2)) == key_of(part_from(4))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x + 1).sum(1),
        lambda x: (x * 1).sum(0),
        lambda x: (x + 1).sum(0, keepdim=True),
        lambda x: (x + 1).sum(0, dtype=torch.float64),
        lambda x: (x.t() + 1).sum(0),
    ],
)
def test_another_graph_has_another_key(function):
    assert key_of(function) != key_of(lambda x: (x + 1).sum(0))


def test_a_key_is_of_shapes_policies_and_no_device_number():
    function = lambda x: (x + 1).sum(0)  # noqa: E731 - as short as it gets
    graph = graph_of(function, (8, 8))
    assert ranks.graph_key(graph, PLAN) != ranks.graph_key(graph, TUNE)
    assert key_of(function, (8, 9)) != key_of(function, (8, 8))
    assert ranks._DEVICE.sub("", "cuda:3 device(type='cuda', index=3)") == ranks._DEVICE.sub(
        "", "cuda:1 device(type='cuda', index=1)"
    )


@pytest.fixture
def store(monkeypatch):
    """A job of several ranks, each played by this process."""
    store = dist.HashStore()
    monkeypatch.setattr(process_group, "has_ranks", lambda: True)
    monkeypatch.setattr(ranks, "has_ranks", lambda: True)
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: store)
    return store


def never(_may_measure: bool) -> Decision:
    raise AssertionError("it was decided already")


def test_the_first_to_have_decided_decides_for_all(store):
    graph = graph_of(lambda x: x.sin() + 1, (8, 8))
    mine, other = (Decision(store=frozenset({name})) for name in ("sin", "add"))
    assert ranks.agreed(graph, PLAN, lambda _: mine) is mine
    assert ranks.agreed(graph, PLAN, never) == mine  # who comes late need not search
    other_graph = graph_of(lambda x: x.cos() + 1, (8, 8))

    def overtaken(_may_measure: bool) -> Decision:
        ranks.agreed(other_graph, PLAN, lambda _: other)
        return mine

    assert ranks.agreed(other_graph, PLAN, overtaken) == other


def test_a_search_that_was_given_up_is_agreed_on_too(store):
    graph = graph_of(lambda x: x.sin() + 1, (8, 8))
    assert ranks.agreed(graph, PLAN, lambda _: GIVEN_UP) is GIVEN_UP
    assert ranks.agreed(graph, PLAN, never) is GIVEN_UP


def test_a_decision_about_another_graph_is_not_taken(store, monkeypatch):
    monkeypatch.setattr(ranks, "graph_key", lambda *_: "the same")
    mine = Decision(store=frozenset({"cos"}))
    ranks.agreed(graph_of(lambda x: x.cos(), (8,)), PLAN, lambda _: mine)
    planned_here = Decision(store=frozenset({"sin"}))
    asked = []

    def decide(may_measure: bool) -> Decision:
        asked.append(may_measure)
        return planned_here

    graph = graph_of(lambda x: x.sin(), (8,))
    assert ranks.agreed(graph, PLAN, decide) is planned_here
    assert ranks.agreed(graph, TUNE, decide) is planned_here
    assert asked[-1] is False  # what was measured would be of this rank alone


class Broken:
    def check(self, _names):
        raise RuntimeError("no such call")


def test_without_a_store_each_plans_by_itself(store, monkeypatch, lenient):
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", Broken)
    asked = []
    ranks.agreed(graph_of(lambda x: x.sin(), (8,)), TUNE, lambda may: asked.append(may) or GIVEN_UP)
    assert asked == [False]
    assert lenient.text.count("cannot agree by the store") == 1
    assert process_group.group_key() == "planned"


def test_caches_keep_what_was_measured_for_one_job(store, monkeypatch):
    there = {str(policy): PolicyPass(policy).uuid() for policy in (PLAN, TUNE)}
    assert there == {str(policy): PolicyPass(policy).uuid() for policy in (PLAN, TUNE)}
    monkeypatch.setattr(process_group, "has_ranks", lambda: False)
    assert PolicyPass(PLAN).uuid() == there["plan"]
    assert PolicyPass(TUNE).uuid() != there["tune"]


@pytest.mark.parametrize("policy", ["plan", "tune"])
def test_a_group_that_is_not_real_changes_nothing(dynamo, lenient, policy):
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        x = torch.randn(64, 64)
        function = lambda x: ((x + 1).sum(0), (x + 1).amax(1))  # noqa: E731
        for got, want in zip(
            torch.compile(function, options=tm.options(policy))(x), function(x), strict=True
        ):
            torch.testing.assert_close(got, want)
    finally:
        dist.destroy_process_group()


def test_the_emergency_gives_stock_and_says_so(dynamo, lenient, monkeypatch):
    kept_out = []
    monkeypatch.setattr(graph_lowering, "uncached", kept_out.append)
    usual = graph_lowering.limits_for
    monkeypatch.setattr(
        graph_lowering, "limits_for", lambda device: replace(usual(device), emergency=0.0)
    )
    x = torch.randn(64, 64)
    torch.compile(lambda x: ((x + 1).sum(0), (x + 1).amax(1)), options=tm.options("plan"))(x)
    assert len(kept_out) == 1
    assert lenient.text.count("left to stock") == 1


@pytest.mark.e2e
@pytest.mark.full
@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.long)])
def test_ranks_of_one_job_decide_alike(tmp_path, world):
    for function, folder in ((ranks_job.acts, "plans"), (ranks_job.acts_too, "more")):
        mode = capturing.fake_mode()
        with mode:
            inputs = [torch.empty(4, 8), torch.empty(4, 8)]
        (graph,) = capturing.capture(function, inputs, {}, CPU, mode)
        plan, _ = plan_of(graph, parse("plan:limits=strong"), CPU)
        assert plan.planned
        plan_file.save(plan, tmp_path / folder)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(world)),
            *(str(Path(__file__).with_name("ranks_job.py")), str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "TORCH_MATERIALIZE_TUNED": str(tmp_path / "tuned"),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
        },
    )
    assert done.returncode == 0, done.stderr
    each = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(world)]
    for what in ("tune", "late", "slow", "files", "lacking"):
        decisions = [one[what]["decisions"] for one in each]
        assert decisions[0], what
        assert all(one == decisions[0] for one in decisions), what
        assert len({tuple(one[what]["sums"]) for one in each}) == 1, what
    # Who came late did not measure.
    assert [one["late"]["asked"] for one in each] == [1] + [0] * (world - 1)
    assert each[0]["alone"]["decisions"]
    # Where there are files nobody searched, not even a rank that lacks them.
    assert not any(one[what]["searched"] for one in each for what in ("files", "lacking"))
    assert all(one[what]["decisions"][0]["store"] for one in each for what in ("files", "lacking"))
    assert "goes by that rank's" in done.stderr
