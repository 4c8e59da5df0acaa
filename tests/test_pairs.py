"""Graphs whose scheduling is dear are left to stock before anything is scheduled, by a count."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import pytest
import torch
from torch._inductor.scheduler import Scheduler

import torch_materialize as tm
from test_gathers import captured
from torch_materialize.core.devices import CPU
from torch_materialize.core.limits import Limits, limits_for
from torch_materialize.core.policy import parse
from torch_materialize.inductor.fx.decision import Decision
from torch_materialize.inductor.hooks import graph_lowering
from torch_materialize.inductor.lower.trial import TooManyPairs
from torch_materialize.inductor.offline import dry_run, plan_making
from torch_materialize.inductor.plan import plan_files
from torch_materialize.inductor.plan.search import search
from torch_materialize.results.plan_file import save
from torch_materialize.results.record import EXPLANATION
from torch_materialize.sweep.measure import measure
from torch_materialize.sweep.rows import GraphRow, Job, Settings


def sums(x, n):
    return [(x * i).sum(i % 2) for i in range(2, n + 2)]


def few(device):
    return replace(limits_for(device), pairs=1)


def _noting(upstream, compared):
    def can_fuse(self, a, b, *args, **how):
        compared.add((a, b))
        return upstream(self, a, b, *args, **how)

    return can_fuse


@pytest.mark.parametrize(("n", "pairs"), [(5, 10), (70, 64 * 65 // 2 + 5 * 64)])
def test_what_is_counted_is_what_upstream_compares(n, pairs, monkeypatch):
    graph = captured(lambda x: sums(x, n), (32, 48), device="cpu")
    with pytest.raises(TooManyPairs, match=f"compares {pairs} pairs .* left to stock"):
        search(graph, replace(limits_for(CPU), pairs=pairs - 1))
    rounds = []
    possible, may = Scheduler.get_possible_fusions, Scheduler.can_fuse

    def noted(self, *nodes):
        rounds.append(set())
        with mock.patch.object(Scheduler, "can_fuse", _noting(may, rounds[-1])):
            return possible(self, *nodes)

    monkeypatch.setattr(Scheduler, "get_possible_fusions", noted)
    search(graph, replace(limits_for(CPU), pairs=pairs), certify=False)
    assert len(rounds[0]) == pairs


@pytest.mark.e2e
def test_a_compile_goes_on_as_stock_and_says_why(dynamo, monkeypatch, caplog):
    monkeypatch.setattr(graph_lowering, "limits_for", few)
    monkeypatch.setattr(Limits, "pairs", 1)
    w = torch.randn(64, 64, requires_grad=True)
    x = torch.randn(64, 64)

    def loss(x):
        y = (x @ w).tanh()
        return sum(one.softmax(0).square().mean() for one in sums(y * y.sigmoid(), 3))

    want = torch.autograd.grad(loss(x), w)
    with caplog.at_level("WARNING", "torch_materialize"):
        got = torch.autograd.grad(torch.compile(loss, options=tm.options("plan"))(x), w)
    torch.testing.assert_close(got, want)
    ours = [one for one in caplog.records if one.name.startswith("torch_materialize")]
    said = [one.getMessage() for one in ours if one.levelname == "WARNING"]
    assert len(said) >= 2  # forward and backward, each once
    assert all("pairs of kernels" in one and "stock (limit: 1 pairs)" in one for one in said), said


def residual(x, w):
    for _ in range(3):
        norm = x * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-5).to(x.dtype)
        x = x + (norm @ w).sigmoid()
    return torch.nn.functional.layer_norm(x, (x.shape[-1],))


@pytest.mark.parametrize("policy", ["plan", "plan:numerics=eager"])
def test_explain_shows_stocks_choice_and_why(monkeypatch, tmp_path, policy):
    x, w = torch.zeros(8192, 1024).bfloat16(), torch.zeros(1024, 1024).bfloat16()

    def report():
        return tm.explain(residual, x, w, policies=("stock", policy), code=True)

    (planned,) = report().explanation.graphs
    assert planned.sides[policy].bytes < planned.sides["stock"].bytes
    monkeypatch.setattr(dry_run, "limits_for", few)
    left = report()
    (graph,) = left.explanation.graphs
    side, stock = graph.sides[policy], graph.sides["stock"]
    assert side.bytes >= stock.bytes == planned.sides["stock"].bytes
    assert side.code is not None and stock.code is not None
    assert len(side.code.launches) == len(stock.code.launches) > 0
    if policy == "plan":
        assert side.bytes == stock.bytes and side.code == stock.code
    assert not any("plan" in one.rules.values() for one in graph.decisions)
    assert "Left to stock: Inductor compares" in left.verdict.text()
    assert "Left to stock: Inductor compares" in left.text()
    left.save(tmp_path / "record.json")
    assert EXPLANATION.load(tmp_path / "record.json") == left.explanation


def test_a_sweep_has_a_row_of_it(monkeypatch):
    monkeypatch.setattr(dry_run, "limits_for", few)
    settings = Settings("h200", ("stock", "plan"), verify=True, layers=1, tokens=64)
    (row,) = measure(Job("llama-3.1-8b", "", "inference", ""), settings)
    assert isinstance(row, GraphRow)
    assert row.bytes["plan"] == row.bytes["stock"] and row.gap_percent("plan") is None
    assert "limit: 1 pairs" in row.left["plan"]


def test_its_plan_file_says_stock_and_is_used_without_a_lowering(monkeypatch, tmp_path):
    monkeypatch.setattr(plan_making, "limits_for", few)
    graph = captured(lambda x: sums(x, 5), (32, 48), device="cpu")
    plan, _ = plan_making.plan_of(graph, parse("plan"), CPU)
    assert (plan.planned, plan.decisions, plan.bound) == (False, (), None)
    assert plan.plan == plan.stock
    save(plan, tmp_path)
    policy = parse("plan", {"plans": str(tmp_path)})
    with mock.patch.object(plan_files, "trial", side_effect=AssertionError):
        assert plan_files.from_file(graph, policy) == Decision()
