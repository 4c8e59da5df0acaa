"""Bodies of higher-order operators: planned like other graphs, once for all their calls."""

from __future__ import annotations

import logging
import re

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor import graph as graph_module
from torch.compiler import nested_compile_region
from torch.nn.attention.flex_attention import flex_attention

import torch_materialize as tm
from tiers import but
from torch_materialize.core.traffic import traffic
from torch_materialize.inductor.fx.bodies import bodies
from torch_materialize.inductor.hooks import graph_lowering
from torch_materialize.inductor.hooks.uncached import is_uncached

TORCH = tuple(map(int, torch.__version__.split(".")[:2]))

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("dynamo")]

_BODY = re.compile(
    r"plan: the body of (\w+), called (\d+) times, of .* layers that repeat; (.*?): (\d+) bytes "
    r"in \d+ kernels \(stock: (\d+)"
)


def norm(x, residual, weight):
    """Add and RMSNorm with the sum in fp32, as vLLM writes it: storing the narrow sum pays."""
    total = x.float() + residual.float()
    scale = torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + 1e-6)
    return (total * scale).to(x.dtype) * weight, total.to(x.dtype)


class Layer(nn.Module):
    """Three norms with matmuls between them, and a SwiGLU."""

    def __init__(self, width):
        super().__init__()
        self.norms = nn.ParameterList(1 + 0.1 * torch.randn(width) for _ in range(3))
        self.mixes = nn.ParameterList(torch.randn(width, width) / width**0.5 for _ in range(2))
        self.up = nn.Parameter(torch.randn(width, 2 * width) / width**0.5)
        self.down = nn.Parameter(torch.randn(width, width) / width**0.5)

    def forward(self, x, residual):
        for weight, mix in zip(self.norms, self.mixes, strict=False):
            x, residual = norm(x, residual, weight)
            x = x @ mix
        x, residual = norm(x, residual, self.norms[2])
        gate, up = (x @ self.up).chunk(2, dim=-1)
        return nn.functional.silu(gate) * up @ self.down, residual


@nested_compile_region
def region(layer, x, residual):
    return layer(x, residual)


class Model(nn.Module):
    def __init__(self, nested, width=64, layers=3):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(Layer(width) for _ in range(layers))
        self.nested = nested
        self.bfloat16()

    def forward(self, x, residual):
        for layer in self.layers:
            x, residual = (region if self.nested else Layer.__call__)(layer, x, residual)
        return x, residual


def inputs(rows=128, width=64):
    torch.manual_seed(1)
    return tuple(torch.randn(rows, width).bfloat16() for _ in range(2))


def assert_near(got, expected):
    """Of bf16 values that went through some layers, each rounds otherwise; the whole is near."""
    for mine, eagers in zip(got, expected, strict=True):
        assert mine.shape == eagers.shape
        assert (mine.float() - eagers.float()).norm() < 0.02 * eagers.float().norm()


def planned_bodies(caplog):
    """Operator, calls, choice, bytes and stock's bytes of each body that a compile planned."""
    found = [_BODY.match(record.getMessage()) for record in caplog.records]
    return [(m[1], int(m[2]), m[3], int(m[4]), int(m[5])) for m in found if m]


def compiled(function, policy="plan", **options):
    return torch.compile(function, options=tm.options(policy), **options)


@torch.no_grad()
@pytest.mark.full
def test_explained_once_and_counted_in_each_call():
    args = inputs(8192, 2048)
    flat, nested = (
        tm.explain(Model(is_nested, 2048, 3), *args, policies=("stock", "plan")).explanation
        for is_nested in (False, True)
    )
    around, body = nested.graphs
    assert (around.caller, around.calls) == ("", 1)
    assert (body.caller, body.calls, body.title) == (
        "invoke_subgraph",
        3,
        "inference body of invoke_subgraph (3 calls)",
    )
    for policy in ("stock", "plan"):
        inside, outside = (traffic(g.sides[policy].graph) for g in (body, around))
        assert nested.traffic(policy) == outside + inside + inside + inside
    assert nested.bound() == pytest.approx(
        around.sides["plan"].bound + 3 * body.sides["plan"].bound
    )
    # The plan gains in the body, and what tensors and kernels save adds up to what is saved in all.
    assert body.sides["plan"].bytes < body.sides["stock"].bytes
    saved = nested.traffic("stock").bytes - nested.traffic("plan").bytes
    assert saved == sum(graph.saved("plan") for graph in nested.graphs) > 0
    assert saved == sum(sum(g.saves["plan"].values()) + g.rest("plan") for g in nested.graphs)
    # Only what crosses the border of a body is written and read once more.
    unit = args[0].nbytes
    assert 0 <= nested.traffic("plan").bytes - flat.traffic("plan").bytes <= 6 * unit


@torch.no_grad()
@pytest.mark.parametrize("rows", [128, 37])
@pytest.mark.full
def test_nested_rounds_as_flat_does(rows, caplog):
    args = inputs(rows)
    with caplog.at_level(logging.INFO, "torch_materialize"):
        nested = compiled(Model(True), "plan:numerics=eager")(*args)
    ((caller, calls, _, moved, stock),) = planned_bodies(caplog)
    assert (caller, calls) == ("invoke_subgraph", 3)
    assert moved < stock
    flat = compiled(Model(False), "plan:numerics=eager")(*args)
    assert all(map(torch.equal, nested, flat))


@torch.no_grad()
@pytest.mark.full
def test_body_is_planned_while_its_caller_is_lowered_by_a_plan(caplog):
    """The counting rules that a plan of the caller puts out of reach are stock's for the body."""

    def function(x, residual, weight, model):
        for _ in range(3):
            x, residual = norm(x, residual, weight)
            x = x @ x.t() @ x / 1000
        return model(x, residual)

    args = *inputs(), torch.ones(64).bfloat16(), Model(True)
    with caplog.at_level(logging.INFO, "torch_materialize"):
        got = compiled(function)(*args)
    within = planned_bodies(caplog)
    caplog.clear()
    with caplog.at_level(logging.INFO, "torch_materialize"):
        compiled(Model(True))(*inputs())
    assert within == planned_bodies(caplog)
    assert_near(got, function(*args))


def heavy(x):
    """By its count of reads stock writes the sum, which only costs."""
    total = x + x.roll(1, 0) + x.roll(2, 0) + x.roll(3, 0) + x.roll(4, 0)
    return total * 2, total.sin()


def branches(x):
    return torch.cond(x.sum() > 0, heavy, lambda x: (x - 1, x * 3), (x,))


def steps(x):
    def step(i, x):
        y, residual = norm(x.bfloat16(), x.sin().bfloat16(), torch.ones(64).bfloat16())
        return i + 1, (y + residual).float() + y.float().sum(-1, keepdim=True)

    return torch.while_loop(lambda i, x: i < 3, step, (torch.zeros((), dtype=torch.int64), x))


@torch.no_grad()
@pytest.mark.parametrize(
    ("function", "caller"), but([(branches, "cond")], [(branches, "cond"), (steps, "while_loop")])
)
def test_branches_and_loops_are_planned(function, caller, caplog):
    torch.manual_seed(0)
    x = torch.randn(1024, 64)
    with caplog.at_level(logging.INFO, "torch_materialize"):
        run = compiled(function)
        for one in (x, x - 1):
            assert_near(run(one), function(one))
    found = planned_bodies(caplog)
    assert {(name, calls) for name, calls, *_ in found} == {(caller, 1)}
    assert all(moved <= stock for *_, moved, stock in found)
    explained = tm.explain(function, x, policies=("stock", "plan")).explanation
    assert [graph.caller for graph in explained.graphs if graph.caller] == [caller] * 2


@pytest.mark.full
def test_training_plans_both_halves_of_a_region(caplog):
    def gradients(model, run):
        args = [x.requires_grad_() for x in inputs()]
        y, residual = run(*args)
        (y.float().pow(2).sum() + residual.float().sum()).backward()
        return [x.grad for x in args] + [p.grad for p in model.parameters()]

    model, reference = Model(True, layers=2), Model(False, layers=2)
    with caplog.at_level(logging.INFO, "torch_materialize"):
        got = gradients(model, compiled(model))
    found = planned_bodies(caplog)
    assert [(name, calls) for name, calls, *_ in found] == [("invoke_subgraph", 2)] * 2
    moved, stock = (sum(one[place] for one in found) for place in (3, 4))
    # The flat model's training, too, gains next to nothing on torch 2.11.
    assert moved < stock if TORCH >= (2, 13) else moved <= stock
    assert_near(got, gradients(reference, reference))


@torch.no_grad()
@pytest.mark.full
def test_sizes_of_a_body_are_guarded_as_stock_guards_them():
    shapes = (64, 7, 33)

    def frames(policy):
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("inductor")
        with tm.policy(policy):
            run = torch.compile(Model(True, layers=2), backend=counter)
            results = []
            for rows in shapes:
                args = tuple(x[:rows].clone() for x in inputs())
                for x in args:
                    torch._dynamo.mark_dynamic(x, 0)
                results.append(run(*args))
        return counter.frame_count, results

    stock, planned = frames("stock"), frames("plan")
    assert stock[0] == planned[0]
    model = Model(False, layers=2)
    for rows, got in zip(shapes, planned[1], strict=True):
        expected = model(*(x[:rows] for x in inputs()))
        assert_near(got, expected)


@torch.no_grad()
@pytest.mark.full
def test_what_is_written_into_around_a_body_is_read_as_written():
    def function(x, residual, model):
        x.mul_(2)
        y, total = model(x, residual)
        residual.copy_(total)
        x.add_(y)
        return y + residual

    model, args, expected = Model(True, layers=2), inputs(), inputs()
    got = compiled(function)(*args, model)
    want = function(*expected, Model(False, layers=2))
    assert_near((got, *args), (want, *expected))


@torch.no_grad()
@pytest.mark.full
def test_body_that_cannot_be_planned_is_stocks_and_not_cached(monkeypatch):
    """Its caller is what is cached, so that is what is kept out of caches."""
    search, lowered = graph_lowering.search, []

    def broken(graph, *args, **kwargs):
        if graph.is_body:
            raise RuntimeError("broken on purpose")
        return search(graph, *args, **kwargs)

    run = graph_module.GraphLowering.run

    def noted(self, *args):
        lowered.append(self)
        return run(self, *args)

    monkeypatch.setattr(graph_lowering, "search", broken)
    monkeypatch.setenv("TORCH_MATERIALIZE_STRICT", "0")
    args = inputs()
    monkeypatch.setattr(graph_module.GraphLowering, "run", noted)
    monkeypatch.setattr(graph_module.SubgraphLowering, "run", noted)
    got = torch.compile(Model(True), options=tm.options("plan"))(*args)
    assert_near(got, Model(False)(*args))
    assert any(is_uncached(one) for one in lowered if type(one) is graph_module.GraphLowering)


@torch.no_grad()
@pytest.mark.full
def test_what_stands_around_flex_attention_is_planned():
    """Its own small functions become part of its kernel: they are no bodies."""

    def function(x, residual, weight, mix):
        for _ in range(3):
            x, residual = norm(x, residual, weight)
            q, k, v = (x @ mix).view(1, -1, 3, 8, 64).permute(2, 0, 3, 1, 4)
            y = flex_attention(q, k, v, score_mod=lambda score, b, h, i, j: score - (i - j))
            x, residual = norm(y.transpose(1, 2).reshape(x.shape), residual, weight)
            x = x @ mix[:, :512]
        return norm(x, residual, weight)

    args = *inputs(8192, 512), torch.ones(512).bfloat16(), torch.randn(512, 1536).bfloat16()
    found = tm.explain(function, *args, policies=("stock", "plan")).explanation
    assert [graph.caller for graph in found.graphs] == [""]
    assert found.traffic("plan").bytes < found.traffic("stock").bytes
    assert found.bound() == pytest.approx(found.traffic("plan").bytes, rel=1e-2)


def test_calls_are_counted_by_operator():
    """One module that two nodes call, and one that none does."""
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    inner = torch.fx.symbolic_trace(lambda x: (x + 1,))
    called = graph.get_attr("one")
    invoke = torch.ops.higher_order.invoke_subgraph
    first = graph.call_function(invoke, (called, "id", x))
    second = graph.call_function(invoke, (graph.get_attr("one"), "id", first))
    graph.output((second, graph.get_attr("other")))
    module = torch.fx.GraphModule({"one": inner, "other": inner}, graph)
    ((body),) = bodies(module)
    assert (body.name, body.caller, body.calls) == ("one", "invoke_subgraph", 2)
