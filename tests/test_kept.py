"""What a forward keeps for its backward, as the views show it, and what is alive on the way."""

from __future__ import annotations

import io

import pytest
import torch
from hypothesis import given, settings
from rich.console import Console

import torch_materialize as tm
from fuzzing.graphs import problems
from test_saved import WIDE, stack, step
from torch_materialize.core.memory import peak_bytes, timeline
from torch_materialize.core.saving import CutPoint, Kept, KeptTensors, kept_bytes
from torch_materialize.report.terminal import print_explanation
from torch_materialize.results.kept import curve_points, kept_rows, peak_sentences
from torch_materialize.results.record import EXPLANATION
from torch_materialize.sweep.rows import GraphRow, ModelRow, Settings
from torch_materialize.sweep.run import Sweep

POLICIES = ("stock", "plan", "plan:memory=0.6")


@settings(max_examples=100, deadline=None)
@given(problems().map(lambda problem: problem.dag))
def test_a_timeline_has_the_peak_and_what_holds_it(dag):
    found = timeline(dag, dag.homes())
    assert found.peak == peak_bytes(dag, dag.homes()) == sum(found.held.values())
    assert all(size >= 0 for size in found.alive)


def test_who_does_not_plan_keeps_what_stock_keeps():
    kept = {"plan": Kept(5, 9)}
    assert [kept_bytes(kept, name) for name in ("plan", "traffic", "stock")] == [5, 9, 9]
    assert kept_bytes({}, "plan") is None


@pytest.fixture(scope="module")
def explained():
    """Three policies, with the curve; shared by the tests below."""
    x = torch.randn(512, WIDE, requires_grad=True)
    with torch._inductor.config.patch(force_disable_caches=True):
        return tm.explain(stack(), x, policies=POLICIES, training=True, device="h200").explanation


@pytest.mark.full
@pytest.mark.e2e
class TestExplained:
    @pytest.mark.parametrize("policy", ["stock", "plan:memory=0.6"])
    def test_what_is_said_to_be_kept_is_what_autograd_keeps(self, explained, policy):
        torch._dynamo.reset()
        with torch._inductor.config.patch(force_disable_caches=True):
            _, kept = step(stack(), None if policy == "stock" else tm.options(policy))
        assert explained.kept_bytes(policy) == kept

    def test_tensors_add_up(self, explained):
        (forward, _) = explained.graphs
        assert forward.kept.keys() == {"plan", "plan:memory=0.6"}
        for kept in forward.kept.values():
            each = [(one, one.bytes // len(one.names)) for one in kept.tensors]
            assert kept.saved == sum(size * len(one.kept) for one, size in each)
            assert kept.stock_saved == sum(size * len(one.stock_kept) for one, size in each)
            assert all((one.more is None) == bool(one.why) for one in kept.tensors)
        assert not explained.keeps_otherwise("plan")
        assert explained.keeps_otherwise("plan:memory=0.6")
        assert explained.kept_bytes("plan:memory=0.6") <= 0.6 * explained.kept_bytes("stock")

    def test_the_curve_falls_and_keeps_what_it_says(self, explained):
        points = curve_points(explained)
        stock = next(one for one in points if one.who == "stock")
        assert (stock.saved, stock.more) == (explained.kept_bytes("stock"), 0.0)
        ours = [one for one in points if one.who.startswith("plan at")]
        assert len(ours) >= 3
        for one in ours:
            assert one.saved <= float(one.who.rpartition(" ")[2]) * stock.saved
        costs = [one.more for one in ours]
        assert costs == sorted(costs)
        assert any(one.who.startswith("upstream at") for one in points)

    def test_every_view_has_them(self, explained, tmp_path):
        assert EXPLANATION.from_json(EXPLANATION.to_json(explained)) == explained
        out = io.StringIO()
        print_explanation(explained, Console(file=out, width=80))
        text = out.getvalue()
        rows, *_ = kept_rows(explained, 3)
        assert rows[0].name in text and "Memory against bytes" in text
        (peak,) = peak_sentences(explained)
        assert "Peak memory" in text and "in the" in peak
        assert "The forward keeps" in text
        page = tm.Report(explained).html()
        for words in ('id="kept"', 'id="memory"', "plan at 0.7", "upstream at 0.7"):
            assert words in page


def test_halves_of_another_cut_count_as_one():
    """A forward that keeps less may move less, for which the backward pays."""

    def row(kind, moved, kept):
        return GraphRow("x", "own", kind, 0, 60, moved, {"stock": 1, "plan": 1}, kept=kept,
                        seconds={"stock": 1.0, "plan": 1.0})  # fmt: skip

    def summary(kept):
        rows = (
            row("forward", {"stock": 100, "plan": 60}, {"stock": 50, "plan": kept}),
            row("backward", {"stock": 100, "plan": 120}, {}),
        )
        models = (ModelRow("x", "own", "training", "ok"),)
        settings = Settings("h200", ("stock", "plan"))
        return Sweep(settings, {}, "2026-01-01", models, rows).summary("plan")

    apart, together = summary(50), summary(25)
    assert (apart.graphs, apart.worse, apart.kept) == (2, 1, 1.0)
    assert (together.graphs, together.worse, together.kept) == (1, 0, 0.5)
    assert together.geomean == pytest.approx(0.9)


def test_keeping_the_same_is_stocks_choice():
    kept = Kept(1, 2, (KeptTensors(("a",), ("a",), (), 1),), (CutPoint("stock", 2, 0.0),))
    assert not kept.is_stock
    assert Kept(2, 2, (KeptTensors(("a",), ("a",), ("a",), 2),)).is_stock
