"""Where no plan can save anything, nothing is dry-run; where one could, the search goes on."""

from __future__ import annotations

import itertools
import logging
import random
from dataclasses import replace

import pytest
import torch
from torch import nn

import torch_materialize as tm
from tiers import but
from torch_materialize.core.devices import CPU, DEVICES
from torch_materialize.core.limits import Limits
from torch_materialize.core.policy import STOCK, parse
from torch_materialize.inductor.hooks import graph_lowering
from torch_materialize.inductor.lower.virtual_gpu import planned_device
from torch_materialize.inductor.offline import capture as capturing
from torch_materialize.inductor.offline.dry_run import dry_run, hooks_for
from torch_materialize.inductor.plan.nothing_to_gain import most_saved, nothing_to_gain
from torch_materialize.inductor.plan.search import search

# Any saved byte is worth a dry run.
EAGER = Limits(least_bytes=0, launch_bytes=0, node_bytes=0.0, worth=1e-9)


def captured(fn, *inputs, device=CPU):
    mode = capturing.fake_mode()
    with mode:
        copies = [torch.empty_strided(x.shape, x.stride(), dtype=x.dtype) for x in inputs]
    with torch.no_grad():
        (graph,) = capturing.capture(fn, copies, {}, device, mode)
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
    monkeypatch.setattr(graph_lowering, "has_readers", lambda: False)
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


def _handed_on(x):
    """The kernel that writes the first computes the second of more digits."""
    first = x * 2
    return first, first + 1


def _stepping(opt):
    def step():
        opt.step()

    return step


def _overwritten(x, y):
    """Inductor writes what is read from x before x is overwritten."""
    first = x * 2
    x.copy_(y.sin())
    return first + 1


@pytest.mark.parametrize("device", [CPU, DEVICES["h200"]], ids=["cpu", "h200"])
def test_narrow_values_that_nobody_reads_rounded_elsewhere_are_judged(device):
    """The narrow weights of a mixed-precision step, and a step that rounds its weights alone."""

    def step(weight, narrow, grad):
        weight.sub_(grad.float() * 0.1)
        narrow.copy_(narrow - grad * 0.1)
        return weight.to(torch.bfloat16)

    given = [tensor(64, 64), *(tensor(64, 64, dtype=torch.bfloat16) for _ in range(2))]
    graph = captured(step, *given, device=device)
    limits = graph_lowering.limits_for(device)
    assert nothing_to_gain(graph, limits) and nothing_to_gain(graph, limits, "stock")
    assert not nothing_to_gain(graph, limits, "eager")
    with planned_device(device), hooks_for(parse("plan")):
        found = search(graph, replace(EAGER, locally=True), certify=False)
    # A search rounds what is copied, too; nothing is computed from it, and a copy rounds it anyway.
    copied = {node.args[1].name for node in graph.module.graph.nodes if "copy_" in node.name}
    assert found.store is None and found.rounded <= copied
    assert found.dag.measured == most_saved(graph.module.graph).least


@pytest.mark.parametrize(
    ("device", "optimizer"),
    but(
        [(DEVICES["h200"], torch.optim.NAdam)],
        itertools.product([CPU, DEVICES["h200"]], [torch.optim.AdamW, torch.optim.NAdam]),
    ),
)
def test_a_step_on_lists_of_tensors_has_nothing_to_gain(device, optimizer):
    mode = capturing.fake_mode()
    with mode:
        weights = [nn.Parameter(torch.zeros(64 + 32 * i, 256)) for i in range(3)]
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        opt = optimizer(weights, foreach=True)
    (graph,) = capturing.capture(_stepping(opt), [], {}, device, mode, training=True)
    assert any("_foreach" in str(node.target) for node in graph.module.graph.nodes)
    saving = most_saved(graph.module.graph)
    assert nothing_to_gain(graph, graph_lowering.limits_for(device))
    stock = dry_run(graph, STOCK, device).dag.measured
    assert saving.least <= stock <= saving.least + saving.most


@pytest.mark.parametrize("device", [CPU, DEVICES["h200"]], ids=["cpu", "h200"])
def test_lists_that_do_not_match_place_by_place_are_judged_where_no_kernel_is_made_of_them(device):
    def crossed(a, b):
        first = torch._foreach_mul([a, b], 2.0)
        return first + torch._foreach_add([first[1], first[0]], 1.0)

    graph = captured(crossed, tensor(64, 64), tensor(64, 64), device=device)
    assert (most_saved(graph.module.graph) is None) == device.is_gpu


def test_a_step_with_matmuls_is_searched():
    """Muon's: what its matmuls are given is worth writing once."""
    mode = capturing.fake_mode()
    with mode:
        weight = nn.Parameter(torch.zeros(512, 256))
        weight.grad = torch.zeros_like(weight)
        opt = torch.optim.Muon([weight])
    (graph,) = capturing.capture(_stepping(opt), [], {}, CPU, mode, training=True)
    assert most_saved(graph.module.graph) is None


@pytest.mark.parametrize(
    ("fn", "inputs"),
    [
        (lambda x: (x * 2).sum(-1), [tensor(64, 64)]),
        (lambda x, y: (x * 2) @ y, [tensor(64, 64), tensor(64, 64)]),
        (lambda x: (x * 2).roll(1, 0), [tensor(64, 64)]),
        (lambda x: x[:32] * 2, [tensor(64, 64)]),
        (lambda x, y: (x * 2) * y, [tensor(64, 1), tensor(64, 64)]),
        (lambda x, y: x * y, [tensor(64, 64), tensor(64, 64).t()]),
        (_handed_on, [tensor(64, 64, dtype=torch.bfloat16)]),
        (_overwritten, [tensor(64, 64, dtype=torch.bfloat16), tensor(64, 64)]),
        (lambda x, y: x + y * 2, [tensor(64, 64), tensor(1, dtype=torch.bfloat16)]),
        (lambda x: torch.nn.functional.dropout(x, 0.5), [tensor(64, 64)]),
        (lambda x: tm.keep(x * 2) + 1, [tensor(64, 64)]),
        (lambda x: sum((x + i for i in range(60)), x), [tensor(64, 64)]),
    ],
    ids=[
        "sum",
        "matmul",
        "roll",
        "slice",
        "wider",
        "turned",
        "handed on",
        "overwritten",
        "narrow number",
        "random",
        "pin",
        "long",
    ],
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


@pytest.mark.parametrize("seed", but(range(2), range(6)))
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


def lists(seed):
    """Random code on lists of tensors, as an optimizer's: place by place, with a number each."""
    chosen = random.Random(seed)
    sizes = [chosen.choice([32, 64, 96]) for _ in range(chosen.randint(2, 3))]
    count = len(sizes)
    inputs = [tensor(size, 128) for _ in range(4) for size in sizes]
    plan = [(chosen.random(), chosen.random(), chosen.randrange(6)) for _ in range(10)]

    def run(*given):
        pool = [list(given[i : i + count]) for i in range(0, 4 * count, count)]
        steps = list(given[4 * count :])
        torch._foreach_add_(steps, 1)
        for one, other, kind in plan:
            x, y = pool[int(one * len(pool))], pool[int(other * len(pool))]
            made = (
                torch._foreach_mul,
                lambda x, y: torch._foreach_add(x, y, alpha=0.5),
                lambda x, _: torch._foreach_sqrt(x),
                lambda x, y: torch._foreach_addcmul(x, y, y, 0.1),
                lambda x, _: torch._foreach_div(x, torch._foreach_pow(0.9, steps)),
                lambda x, y: torch._foreach_addcdiv(x, y, x, 0.3),
            )[kind](x, y)
            pool.append(made)
        torch._foreach_copy_(pool[0], pool[-1])
        return pool[4]

    return run, [*inputs, *(tensor() for _ in sizes)]


@pytest.mark.parametrize("device", [CPU, DEVICES["h200"]], ids=["cpu", "h200"])
@pytest.mark.parametrize("seed", but([0], range(3)))
def test_no_search_saves_more_on_lists_than_is_told(seed, device):
    graph = captured(*_split(lists(seed)), device=device)
    saving = most_saved(graph.module.graph)
    assert saving is not None
    with planned_device(device), hooks_for(parse("plan")):
        found = search(graph, replace(EAGER, locally=True), certify=False)
    assert not found.rounded
    assert found.stock_dag.measured - found.dag.measured <= saving.most


def _split(made):
    fn, inputs = made
    return fn, *inputs
