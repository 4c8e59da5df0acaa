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
from torch_materialize.inductor.hooks import graph_lowering
from torch_materialize.inductor.lower.trial import TooManyPairs
from torch_materialize.inductor.plan.search import search


def sums(x, n):
    return [(x * i).sum(i % 2) for i in range(2, n + 2)]


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
    def few(device):
        return replace(limits_for(device), pairs=1)

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
