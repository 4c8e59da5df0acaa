"""Where no plan can save anything, nothing is dry-run; where one could, the search goes on."""

from __future__ import annotations

import logging
import random
from dataclasses import replace

import pytest
import torch

import torch_materialize as tm
from torch_materialize.core.devices import CPU
from torch_materialize.core.limits import Limits
from torch_materialize.core.policy import parse
from torch_materialize.inductor.hooks import graph_lowering
from torch_materialize.inductor.offline import capture as capturing
from torch_materialize.inductor.offline.dry_run import hooks_for
from torch_materialize.inductor.plan.nothing_to_gain import most_saved, nothing_to_gain
from torch_materialize.inductor.plan.search import search

# Any saved byte is worth a dry run.
EAGER = Limits(least_bytes=0, launch_bytes=0, node_bytes=0.0, worth=1e-9)


def captured(fn, *inputs):
    mode = capturing.fake_mode()
    with mode:
        copies = [torch.empty_strided(x.shape, x.stride(), dtype=x.dtype) for x in inputs]
    with torch.no_grad():
        (graph,) = capturing.capture(fn, copies, {}, CPU, mode)
    return graph


def adam(steps=1):
    """Some parameters' step of Adam, in place, with what is shared by all of them."""

    def step(rate, *tensors):
        for i in range(0, len(tensors), 5):
            p, g, m, v, t = tensors[i : i + 5]
            t += 1
            m.lerp_(g, 0.1)
            v.mul_(0.999).addcmul_(g, g, value=0.001)
            p.mul_(0.99)
            p.addcdiv_(m, (v.sqrt() / (1 - 0.999**t).sqrt()).add_(1e-8) * (1 - 0.9**t), value=-1.0)
            p.sub_(rate * m)

    def tensors(i):
        size = 64 + 32 * (i % 3)
        return [*(torch.ones(size, 256) for _ in range(4)), torch.ones(())]

    return step, [torch.ones(()), *(x for i in range(steps) for x in tensors(i))]


def test_a_step_of_an_optimizer_has_nothing_to_gain():
    step, inputs = adam(4)
    graph = captured(step, *inputs)
    saving = most_saved(graph.module.graph)
    big = sum(x.numel() * 4 for x in inputs if x.dim())
    # Each is read, and all but the gradients are written: a quarter are gradients.
    assert big < saving.least <= big * 7 // 4 + 100
    assert saving.most < 1000
    assert nothing_to_gain(graph, graph_lowering.limits_for(CPU))
    assert nothing_to_gain(graph, Limits())


def test_such_a_graph_is_not_lowered_before(monkeypatch, dynamo, caplog):
    step, inputs = adam(2)
    monkeypatch.setattr(
        graph_lowering, "search", lambda *_a, **_k: pytest.fail("a dry run for nothing")
    )
    caplog.set_level(logging.INFO, logger="torch_materialize")
    monkeypatch.setattr(graph_lowering, "told", lambda: False)
    expected = [x.clone() for x in inputs]
    step(*expected)
    torch.compile(step, options=tm.options("plan"))(*inputs)
    assert all(map(torch.allclose, inputs, expected))
    assert any("nothing to gain" in record.message for record in caplog.records)


@pytest.mark.parametrize("variable", ["TORCH_MATERIALIZE_RECORD"])
def test_whoever_wants_its_figures_gets_them(variable, monkeypatch, dynamo, tmp_path):
    step, inputs = adam()
    monkeypatch.setenv(variable, str(tmp_path))
    torch.compile(step, options=tm.options("plan"))(*inputs)
    assert list(tmp_path.iterdir())


def tensor(*shape, dtype=torch.float32):
    return torch.ones(shape, dtype=dtype)


@pytest.mark.parametrize(
    ("fn", "inputs"),
    [
        (lambda x: (x * 2).sum(-1), [tensor(64, 64)]),
        (lambda x, y: (x * 2) @ y, [tensor(64, 64), tensor(64, 64)]),
        (lambda x: (x * 2).roll(1, 0), [tensor(64, 64)]),
        (lambda x: x[:32] * 2, [tensor(64, 64)]),
        (lambda x, y: (x * 2) * y, [tensor(64, 1), tensor(64, 64)]),
        (lambda x, y: x * y, [tensor(64, 64), tensor(64, 64).t()]),
        (lambda x: x * 2 + 1, [tensor(64, 64, dtype=torch.bfloat16)]),
        (lambda x: torch.nn.functional.dropout(x, 0.5), [tensor(64, 64)]),
        (lambda x: tm.keep(x * 2) + 1, [tensor(64, 64)]),
        (lambda x: sum((x + i for i in range(60)), x), [tensor(64, 64)]),
    ],
    ids=["sum", "matmul", "roll", "slice", "wider", "turned", "narrow", "random", "pin", "long"],
)
def test_other_graphs_are_not_judged(fn, inputs):
    assert most_saved(captured(fn, *inputs).module.graph) is None


def test_a_graph_of_unknown_sizes_is_not_judged():
    mode = capturing.fake_mode()
    with mode:
        x = torch.empty(64, 64)
    graphs = capturing.capture(lambda x: x * 2 + x, [x], {}, CPU, mode, dynamic=True)
    assert most_saved(graphs[0].module.graph) is None


def test_what_is_needed_in_two_places_may_be_saved():
    """Inductor fuses these two; that it might not is not ruled out."""

    def twice(x, y, z):
        shared = x * y
        return shared + z, shared.sin()

    graph = captured(twice, *(tensor(64, 64) for _ in range(3)))
    saving = most_saved(graph.module.graph)
    assert saving.most == 2 * 64 * 64 * 4
    assert saving.least == 5 * 64 * 64 * 4
    assert not nothing_to_gain(graph, graph_lowering.limits_for(CPU))


def program(seed):
    """Random pointwise code on tensors of a few sizes, some of it written back in place."""
    chosen = random.Random(seed)
    shapes = [(64, 64), (32, 128), ()]
    count = {shape: chosen.randint(1, 3) for shape in shapes}
    inputs = [tensor(*shape) for shape in shapes for _ in range(count[shape])]
    plan = [(chosen.random(), chosen.random(), chosen.randrange(5)) for _ in range(24)]
    back = chosen.sample(range(len(inputs)), 2)

    def run(*given):
        values = {shape: [x for x in given if tuple(x.shape) == shape] for shape in shapes}
        outputs = []
        for one, other, kind in plan:
            shape = shapes[int(one * 8) % 3]
            pool = values[shape]
            x, y = pool[int(one * len(pool))], pool[int(other * len(pool))]
            made = (x * y, x + 1.5, x.sigmoid(), x - y * values[()][-1], torch.maximum(x, y))[kind]
            pool.append(made)
            if kind == 1:
                outputs.append(made)
        for i in back:
            given[i].copy_(values[tuple(given[i].shape)][-1])
        return outputs

    return run, inputs


@pytest.mark.parametrize("seed", range(6))
def test_what_has_nothing_to_gain_is_stocks_choice_after_any_search(seed):
    graph = captured(*_split(program(seed)))
    saving = most_saved(graph.module.graph)
    assert saving is not None
    with hooks_for(parse("plan")):
        found = search(graph, replace(EAGER, locally=True), certify=False)
    assert not found.rounded
    saved = found.stock_dag.measured - found.dag.measured
    assert saved <= saving.most
    assert found.dag.measured >= saving.least


def _split(made):
    fn, inputs = made
    return fn, *inputs
