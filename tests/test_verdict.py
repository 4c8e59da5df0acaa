"""What a policy changes, and the verdict on it: their figures add up, and each state has words."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

import torch_materialize as tm
from reported import explanation as layers
from torch_materialize.core.graph import Graph
from torch_materialize.core.story import Refusal
from torch_materialize.results.changes import changes_of, collapsed, family_changes
from torch_materialize.results.explanation import Explanation
from torch_materialize.results.record import EXPLANATION
from torch_materialize.results.verdict import TimeState, VerdictState, verdict_of


def add_up(explanation: Explanation) -> None:
    """Holds that lines, modules, tensors and families each add up to what is saved in all."""
    for policy in explanation.policies:
        before, after = (explanation.traffic(p) for p in (explanation.policies[0], policy))
        found = changes_of(explanation, policy)
        assert found.saved == before.bytes - after.bytes
        assert sum(line.saves for line in found.lines) + found.fused_otherwise == found.saved
        tensors = [tensor for line in found.lines for tensor in line.tensors]
        assert sum(one.saves for one in tensors) == found.saved - found.fused_otherwise
        assert len({(one.place, one.node) for one in tensors}) == len(tensors)
        families = family_changes(explanation, policy)
        assert sum(row.saves for row in families) == found.saved
        assert sum(row.after.kernels for row in families) == after.kernels
        assert sum(row.before.kernels for row in families) == before.kernels
        pairs = sum(row.unchanged + len(row.changed) for row in families)
        assert pairs <= before.kernels + after.kernels
        verdict = verdict_of(explanation, policy)
        assert verdict.saved_bytes == found.saved
        assert (verdict.state is VerdictState.GAIN) == (found.saved > 0)


class Block(torch.nn.Module):
    """A norm before a matmul, and a residual add behind it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(width)
        self.linear = torch.nn.Linear(width, width, bias=False)

    def forward(self, x):
        return x + self.linear(self.norm(x)).relu()


@pytest.fixture(scope="module")
def training() -> Explanation:
    model = torch.nn.Sequential(*(Block(1024) for _ in range(4)), torch.nn.LayerNorm(1024))
    x = torch.zeros(4096, 1024, requires_grad=True)
    return tm.explain(model, x, training=True).explanation


@pytest.mark.e2e
@pytest.mark.full
def test_lines_modules_tensors_and_families_add_up(training):
    assert {graph.kind for graph in training.graphs} == {"forward", "backward"}
    add_up(training)
    found = changes_of(training, "plan")
    assert found.saved > 0
    (line,) = [line for line in found.lines if line.source]
    assert line.source.rpartition("/")[2].startswith("test_verdict.py:")
    assert line.text == "return x + self.linear(self.norm(x)).relu()"
    (module,) = line.modules
    assert (module.module, module.layer) == ("*", "Block")
    assert module.modules == len(module.tensors) > 1


def with_shares(explanation: Explanation) -> Explanation:
    """As a policy that saves what its tensors save, and something besides."""
    (graph,) = explanation.graphs
    names = [name for name in graph.facts if name.startswith("sum_")]
    saved = graph.saved("plan")
    each = dict.fromkeys(names, saved // len(names) // 2) | {names[0]: -1000}
    return replace(explanation, graphs=(replace(graph, saves={"plan": each}),))


def without_shares(explanation: Explanation) -> Explanation:
    """As a record of `compare` was before it said what each tensor saves."""
    graphs = tuple(replace(graph, saves={}) for graph in explanation.graphs)
    return replace(explanation, graphs=graphs)


def test_built_records_add_up():
    one = with_shares(layers())
    add_up(one)
    add_up(replace(one, graphs=one.graphs * 3))
    old = without_shares(layers())
    add_up(old)
    found = changes_of(one)
    assert found.has_shares and not changes_of(old).has_shares
    assert found.fused_otherwise not in (0, found.saved)
    assert found.lines[0].modules[0].tensors[-1].saves == -1000


def test_equal_kernels_are_unchanged_and_others_are_paired():
    explanation = layers(layers=6)
    (row,) = [row for row in family_changes(explanation, "plan") if row.family == "Norm"]
    changed = {pair.after: pair for pair in row.changed}
    assert row.unchanged + len(changed) == 6
    assert all(pair.before == place for place, pair in changed.items())
    (same,) = family_changes(explanation, "stock")
    assert (same.unchanged, same.changed, same.saves) == (6, (), 0)


def test_repeated_layers_are_one_row():
    assert collapsed(["model.layers.3.norm"]) == "model.layers.3.norm"
    assert collapsed(["stage.0.block.1", "stage.0.block.2"]) == "stage.0.block.*"
    (line, *_) = changes_of(layers(layers=6), "plan").lines
    (module,) = line.modules
    assert (module.module, module.layer, module.modules) == ("layers.*.norm", "Norm", 4)


def without_gain(explanation: Explanation, refused: tuple[Refusal, ...] = ()) -> Explanation:
    graphs = tuple(
        replace(g, sides=dict.fromkeys(g.sides, g.sides["stock"]), saves={}, refused=refused)
        for g in explanation.graphs
    )
    return replace(explanation, graphs=graphs)


def with_times(explanation: Explanation, **seconds: float) -> Explanation:
    graphs = tuple(
        replace(
            g,
            sides={p: replace(s, predicted_seconds=seconds.get(p)) for p, s in g.sides.items()},
        )
        for g in explanation.graphs
    )
    return replace(explanation, graphs=graphs)


@pytest.mark.parametrize(
    ("make", "state"),
    [
        (lambda e: e, VerdictState.GAIN),
        (without_gain, VerdictState.NOTHING),
        (lambda e: without_gain(e, (Refusal("peak", 9, 10, 3, 2, 1),)), VerdictState.REFUSED),
        (lambda e: replace(e, policies=("plan", "stock"), priced="stock"), VerdictState.MORE),
        (lambda e: replace(e, policies=("plan",)), VerdictState.ALONE),
    ],
)
def test_each_state_has_its_words(make, state):
    found = verdict_of(make(layers()))
    assert found.state is state
    sentences = found.sentences()
    assert 1 <= len(sentences) <= 5
    assert all(re.match(r"[A-Z0-9`].*\.$", sentence) for sentence in sentences), sentences
    assert ("Switch on" in found.steps()) == (state is VerdictState.GAIN)
    assert ("refused" in found.text()) == (state is VerdictState.REFUSED)


@pytest.mark.parametrize(
    ("device", "seconds", "time"),
    [
        ("h200", {"stock": 2e-5, "plan": 1e-5}, TimeState.FASTER),
        ("h200", {"stock": 1e-5, "plan": 2e-5}, TimeState.SLOWER),
        ("h200", {"stock": 1e-5, "plan": 0.99e-5}, TimeState.WITHIN_ERROR),
        ("h200", {"stock": 1e-5, "plan": 1e-5}, TimeState.SAME),
        ("h200", {"stock": 1e-5}, TimeState.UNKNOWN),
        ("a100", {}, TimeState.UNKNOWN),
    ],
)
def test_a_time_is_told_only_where_it_is_predicted(device, seconds, time):
    found = verdict_of(with_times(replace(layers(), device=device), **seconds))
    assert found.time is time
    if time is TimeState.UNKNOWN:
        assert "time unknown" in found.text()
        assert not re.search(r"\d us", found.text())
        assert found.seconds_before is found.time_error is None
    if time is TimeState.WITHIN_ERROR:
        assert "within the error of the prediction" in found.text()


@pytest.mark.parametrize("origin", ["model", "compile"])
def test_what_turns_it_off_is_what_turned_it_on(origin):
    """Options win over the environment, which only what opts in by itself reads."""
    steps = verdict_of(replace(layers(), origin=origin)).steps()
    assert ("Switch on" in steps) == (origin == "model")
    assert ("TORCH_MATERIALIZE" in steps["Off"]) == (origin == "compile")


def test_rounding_is_counted_where_a_choice_changes_it():
    explanation = layers(layers=5)
    # Each layer's sum loses digits where it is stored, which only the plan does.
    assert verdict_of(explanation).rounding == 5
    assert "Rounding changes in 5 tensors" in verdict_of(explanation).text()
    assert verdict_of(without_gain(explanation)).rounding == 0
    name, (graph,) = "plan:numerics=eager", explanation.graphs
    graph = replace(graph, sides={"stock": graph.sides["stock"], name: graph.sides["plan"]})
    eager = replace(explanation, policies=("stock", name), priced=name, graphs=(graph,))
    assert verdict_of(eager).rounding is None


def test_the_record_has_the_verdict_and_is_read_without_it():
    explanation = layers()
    data = EXPLANATION.to_json(explanation)
    assert data["verdict"]["state"] == "gain"
    assert data["verdict"]["text"] == verdict_of(explanation).text()
    for key in ("verdict", "lines", "command"):
        del data[key]
    for graph in data["graphs"]:
        for side in graph["sides"].values():
            del side["predicted_seconds"]
    assert EXPLANATION.from_json(data) == replace(explanation, lines={})


def test_an_empty_explanation_has_a_verdict():
    explanation = layers()
    (graph,) = explanation.graphs
    sides = {p: replace(s, graph=Graph(()), work={}, code=None) for p, s in graph.sides.items()}
    found = verdict_of(replace(explanation, graphs=(replace(graph, sides=sides),)))
    assert found.state is VerdictState.NOTHING
    assert found.saved_share == 0
