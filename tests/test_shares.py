"""What each decision saves against stock: exact sums, and figures that a reader can believe."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import torch_materialize as tm
from fuzzing.graphs import problems
from test_planner import residual_chain
from torch_materialize.core.dag import Kind, moved
from torch_materialize.core.shares import saved_by, shares
from torch_materialize.jobs.explain import explain_target
from torch_materialize.results import headline
from torch_materialize.results.explanation import Explanation
from torch_materialize.results.record import EXPLANATION


def total(dag, homes):
    return sum(one.total(dag) for one in moved(dag, homes))


def on_the_side(dag, homes, index, computing):
    """Kernels before those that compute a value, which have all that it is computed from."""
    value, inputs = dag.values[index], dag.values[index].inputs
    for k, one in enumerate(moved(dag, homes)):
        at_hand = all(i in one.computes or i in one.reads for i in inputs)
        made = {dag.values[i].base for i in one.computes} & {dag.values[i].base for i in inputs}
        if k < min(computing) and value.numel in dag.kernels[k].numels and at_hand and made:
            yield k


@settings(max_examples=300, deadline=None)
@given(problems().map(lambda problem: problem.dag), st.data())
@pytest.mark.full
def test_the_shares_add_up_to_a_recount_of_the_other_choice(dag, data):
    ours = [v.index for v in dag.values if v.kind is Kind.POINTWISE and not v.required]
    stored = {i for i in ours if data.draw(st.booleans())}
    found = shares(dag, dag.nodes(stored))
    written = {i for one in moved(dag, dag.homes()) for i in one.writes}
    homes = {
        i: k for i, k in dag.homes().items() if i not in ours or i in stored or i not in written
    }
    for i in sorted(stored - written):
        computing = [k for k, one in enumerate(moved(dag, homes)) if i in one.computes]
        if not computing:
            continue
        costs = {min(computing): total(dag, {**homes, i: min(computing)})}
        costs |= {k: total(dag, {**homes, i: k}) for k in on_the_side(dag, homes, i, computing)}
        homes[i] = min(costs, key=costs.__getitem__)
    assert sum(found.values()) == total(dag, homes) - total(dag, dag.homes())
    assert set(found) == dag.nodes({*(written & set(ours))} ^ stored)


def test_along_a_residual_stream_everybody_gets_a_share():
    """Priced all at once, or each by itself, the first would get nearly all or nearly nothing."""
    dag, _, residuals = residual_chain(4)
    stored = dag.homes() | {i: k for k, i in enumerate(residuals[:-1])}
    found = shares(dag, dag.nodes(residuals[:-1]))
    assert sum(found.values()) == total(dag, stored) - total(dag, dag.homes())
    assert max(found.values()) <= 0
    assert sum(saved < 0 for saved in found.values()) > 1
    assert set(found) == dag.nodes(residuals[:-1])


def test_equal_choices_have_no_shares():
    dag, _, _ = residual_chain(2)
    nodes = dag.nodes(dag.homes())
    assert saved_by(dag, dag, (nodes, nodes)) == {}


# Real graphs.


def blocks(x, weight, scale, shift, mean, variance, training):
    """Convolutions, batch norms, SiLU, squeeze and excitation, as in an EfficientNet.

    Stock stores what a batch norm makes and a plan inlines it.
    """
    for _ in range(3):
        y = torch.nn.functional.conv2d(x, weight, padding=1)
        y = torch.nn.functional.batch_norm(
            y, None if training else mean, None if training else variance, scale, shift, training
        )
        y = torch.nn.functional.silu(y)
        x = x + y * y.mean((2, 3), keepdim=True).sigmoid()
    return x


def small(target: str) -> Explanation:
    return explain_target(target, ("stock", "traffic", "plan"), tokens=2048, layers=3)


def efficient(training: bool = False) -> Explanation:
    x, weight = torch.zeros(8, 32, 64, 64), torch.zeros(32, 32, 3, 3, requires_grad=training)
    channels = [torch.ones(32, requires_grad=training) for _ in range(4)]
    return tm.explain(
        blocks, x, weight, *channels, training, policies=("stock", "plan"), training=training
    ).explanation


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("make", "saves"),
    [
        (lambda: small("fused-add-rmsnorm"), True),
        # From 2.14 on the residual add is part of the matmul, for every policy.
        pytest.param(
            lambda: small("fused-add-rmsnorm-hf"),
            not torch.__version__.startswith(("2.14.", "2.15.")),
            marks=pytest.mark.full,
        ),
        pytest.param(
            lambda: small("llama-3.1-8b"), True, marks=[pytest.mark.full, pytest.mark.long]
        ),
        pytest.param(lambda: small("gpt2"), False, marks=[pytest.mark.full, pytest.mark.long]),
        pytest.param(efficient, True, marks=pytest.mark.full),
        pytest.param(lambda: efficient(training=True), True, marks=pytest.mark.full),
    ],
    ids=["norms", "norms-hf", "llama", "gpt2", "efficientnet", "training"],
)
def test_shares_add_up_to_what_is_saved(make, saves):
    explanation = make()
    for policy in explanation.policies[1:]:
        for graph in explanation.graphs:
            found, rest = graph.saves[policy], graph.rest(policy)
            saved = graph.saved(policy)
            most = max(explanation.traffic(p).bytes for p in ("stock", policy))
            print(policy, graph.kind, saved, rest, len(found), sum(map(abs, found.values())))
            assert sum(found.values()) + rest == saved
            assert all(abs(share) <= most for share in found.values())
            differs = graph.sides["stock"].stored ^ graph.sides[policy].stored
            assert set(found) <= differs
            if policy == "plan" and not explanation.keeps_otherwise(policy):
                assert abs(rest) <= 0.01 * abs(saved)
    assert (headline.headline(explanation).planned < headline.headline(explanation).moved) >= saves
    rows = headline.worth_most(explanation)
    left = sum(graph.rest("plan") for graph in explanation.graphs)
    assert sum(row.saves for row in rows) + left == (
        explanation.traffic("stock").bytes - explanation.traffic("plan").bytes
    )
    assert EXPLANATION.from_json(EXPLANATION.to_json(explanation)) == explanation
