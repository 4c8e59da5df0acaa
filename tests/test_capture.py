"""What is captured for a planned device, in training too."""

from __future__ import annotations

import collections
import functools
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import torch_materialize as tm
from tiers import but
from torch_materialize.core.devices import DEVICES
from torch_materialize.core.policy import STOCK, parse
from torch_materialize.inductor.offline import capture as capturing
from torch_materialize.inductor.offline.dry_run import dry_run

pytestmark = pytest.mark.e2e

H200 = DEVICES["h200"]


def _captured(module, *shapes, training=False):
    mode = capturing.fake_mode()
    module = module.to("meta")
    with mode:
        module.to_empty(device="cpu")
        inputs = [torch.zeros(shape) for shape in shapes]
    return capturing.capture(module, inputs, {}, H200, mode, training=training)


def test_training_gives_each_forward_and_its_backward():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 32)

        def forward(self, x):
            x = self.first(x).relu()
            torch._dynamo.graph_break()
            return self.second(x).relu().sum()

    graphs = _captured(Broken(), (16, 32), training=True)
    assert [g.is_backward for g in graphs] == [False, True, False, True]
    assert not any(g.is_inference for g in graphs)
    assert all(dry_run(g, STOCK, H200).graph.kernels for g in graphs)


def test_a_graph_without_inputs_is_captured_and_planned():
    """As before a graph break: a table of positions, say, that no input is used for."""

    class Positions(nn.Module):
        def forward(self, x):
            places = torch.arange(64)
            apart = places[:, None] - places[None]
            torch._dynamo.graph_break()
            return x * apart

    first, second = _captured(Positions(), (64, 64))
    assert not first.inputs and second.inputs
    for policy in (STOCK, parse("plan")):
        (kernel,) = dry_run(first, policy, H200).graph.kernels
        assert kernel.write_bytes == 64 * 64 * 8


def test_a_backward_gets_what_its_forward_saves_as_inductor_lays_it_out():
    # Inductor takes channels last only where convolutions are wide.
    net = nn.Sequential(nn.Conv2d(128, 256, 3), nn.GELU(), nn.Conv2d(256, 256, 3), nn.GELU())
    _, backward = _captured(net, (4, 128, 32, 32), training=True)
    values = {n.name: n.meta["val"] for n in backward.module.graph.find_nodes(op="placeholder")}
    assert values["convolution"].is_contiguous(memory_format=torch.channels_last)


def test_a_convolution_in_one_dimension_can_be_planned_for_a_gpu_that_torch_has_no_kernels_for():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(64, 64, 4, groups=64, padding=3)

        def forward(self, x):
            return nn.functional.silu(self.conv(x.transpose(1, 2))[..., : x.shape[1]])

    for training in (False, True):
        for graph in _captured(Mixed(), (2, 32, 64), training=training):
            assert dry_run(graph, STOCK, H200).graph.kernels


def test_a_small_constant_without_a_value_is_an_input():
    mode = capturing.fake_mode()
    with mode:
        x, constant = torch.zeros(64, 2), torch.zeros(2)
    (graph,) = capturing.capture(lambda x: x * constant, [x], {}, H200, mode, "make_fx")
    assert len(graph.inputs) == 2
    assert dry_run(graph, STOCK, H200).graph.kernels


def test_an_error_in_the_middle_of_a_trace_says_its_cause(monkeypatch):
    def fail(*_):
        raise ValueError("strange strides")

    monkeypatch.setattr(capturing, "on_device", fail)
    with pytest.raises(tm.CaptureError, match="ValueError: strange strides"):
        _captured(nn.Linear(8, 8), (4, 8))


@pytest.mark.parametrize(
    ("optimizer", "training"),
    [
        (functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9), False),
        (torch.optim.AdamW, False),
        (torch.optim.AdamW, True),
    ],
    ids=["sgd", "adamw", "adamw with gradients on"],
)
@pytest.mark.full
def test_a_training_step_gives_its_optimizer_too(optimizer, training):
    mode = capturing.fake_mode()
    with mode:
        model = nn.Sequential(nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 32))
        opt = optimizer(model.parameters())
        x = torch.zeros(16, 32)

    def step(x):
        opt.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        opt.step()
        return loss.detach()

    policies = [STOCK, parse("plan:numerics=eager")]
    graphs = capturing.capture_for(policies, step, [x], {}, H200, mode, training=training)
    for found in graphs.values():
        assert [g.is_backward for g in found] == [False, True, False]
        assert [g.is_inference for g in found] == [False, False, True]
        assert dry_run(found[-1], STOCK, H200).graph.kernels
        # Weights, gradients and the states that there are from the second step on.
        assert sum(isinstance(x, torch.Tensor) for x in found[-1].inputs) >= 12
    assert len({found[-1].nodes for found in graphs.values()}) == 1


class Trainer:
    """A step on what an object holds, some of it by way of a function."""

    def __init__(self):
        self.model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))
        self.opt = torch.optim.AdamW(self.model.parameters())

    def step(self, x):
        self.opt.zero_grad()
        loss = self.model(x).square().mean()
        loss.backward()
        self.opt.step()
        return loss

    def as_function(self):
        model, opt = torch.compile(self.model), self.opt

        def step(x):
            opt.zero_grad()
            model(x).square().mean().backward()
            opt.step()

        return step


@pytest.mark.full
@pytest.mark.parametrize("how", ["method", "closure", "compiled"])
def test_explaining_a_step_leaves_the_users_model_and_optimizer_as_they_are(dynamo, how):
    trainer = Trainer()
    x = torch.randn(4, 8)
    trainer.step(x)
    weights = list(trainer.model.parameters())
    held = [w for p in weights for w in (p, p.grad, *trainer.opt.state[p].values())]
    before = [w.detach().clone() for w in held]
    step = trainer.step if how == "method" else trainer.as_function()
    step = torch.compile(step) if how == "compiled" else step
    report = tm.explain(step, x, device="cpu", policies=["stock"])
    assert [g.kind for g in report.explanation.graphs] == ["forward", "backward", "inference"]
    after = [w for p in weights for w in (p, p.grad, *trainer.opt.state[p].values())]
    assert all(one is other for one, other in zip(held, after, strict=True))
    assert all(map(torch.equal, before, after))


def test_what_a_step_uses_and_cannot_be_copied_is_named():
    class Sealed(nn.Linear):
        def __deepcopy__(self, _memo):
            raise TypeError("not this one")

    model = Sealed(8, 8)
    with pytest.raises(tm.CaptureError, match="a Sealed that could not be copied"):
        tm.explain(lambda x: model(x).sum().backward(), torch.randn(4, 8), device="cpu")


def _soft(x):
    return (x.softmax(-1) + x).softmax(-1)


def _broken(x):
    torch._dynamo.graph_break()
    return x.sin()


_MARKS = {
    "unmarked": lambda f: f,
    "region": torch.compiler.nested_compile_region,
    "disabled": torch.compiler.disable,
    "disabled itself": functools.partial(torch.compiler.disable, recursive=False),
    "constant": lambda f: torch.compiler.assume_constant_result(lambda: 3),
    "compiled": torch.compile,
    "opaque": lambda f: torch.compiler.allow_in_graph(_broken),
    "wrapped": lambda f: functools.wraps(f)(torch.compiler.disable(f)),
}


@pytest.mark.parametrize("mark", but(["region", "disabled"], _MARKS))
@pytest.mark.parametrize("reaches_a_model", [False, True])
def test_marks_of_functions_that_a_function_reaches_are_kept(mark, reaches_a_model, dynamo):
    """Where it is a model that calls them nothing is copied: so its graphs are right."""
    linear = nn.Linear(64, 64)
    inner = _MARKS[mark]((lambda x: _soft(linear(x))) if reaches_a_model else _soft)

    def function(x):
        if mark == "constant":
            return (x + 1) * inner()
        x = inner(x + 1) * 2
        return inner(x + 1) * 2

    class Module(nn.Module):
        def forward(self, x):
            return function(x)

    @torch.no_grad()
    def graphs(called):
        torch._dynamo.reset()
        found = tm.explain(called, torch.randn(16, 64), device="cpu", policies=["stock"])
        return [(g.title, g.sides["stock"].bytes) for g in found.explanation.graphs]

    class Holder:
        run = staticmethod(function)

        def step(self, x):
            return self.run(x)

    expected = graphs(Module())
    assert len(expected) == {"region": 2, "disabled": 3, "wrapped": 3}.get(mark, len(expected))
    assert graphs(function) == expected
    assert graphs(Holder().step) == expected


def _step(model, opt, x):
    opt.zero_grad()
    loss = model(x).square().mean()
    loss.backward()
    opt.step()
    return loss


class _Holder:
    def __init__(self, model, opt):
        self.parts = {"model": model, "opts": [opt]}
        self.losses = []

    def __call__(self, x):
        loss = _step(self.parts["model"], self.parts["opts"][0], x)
        self.losses.append(loss)
        return loss


class _Outer:
    def __init__(self, *held):
        self.inner = _Holder(*held)

    def run(self, x):
        return self.inner(x)


@dataclass(frozen=True, slots=True)
class _Slots:
    model: nn.Module
    opt: torch.optim.Optimizer

    def run(self, x):
        return _step(self.model, self.opt, x)


_Pair = collections.namedtuple("_Pair", "model opt")


class _Parts(dict):
    def run(self, x):
        return _step(self["model"], self["opt"], x)


def _of_class(model, opt):
    class Step:
        held = (model, opt)

        def run(self, x):
            return _step(*self.held, x)

    return Step().run


def _by_default(model, opt):
    def step(x, model=model, *, opt=opt):
        return _step(model, opt, x)

    return step


def _calling(made):
    def step(x):
        return made(x)

    return step


def _unpacking(pair):
    return lambda x: _step(*pair, x)


_HELD = {
    "given": None,
    "partial": lambda *held: functools.partial(_step, *held),
    "callable": _Holder,
    "in a callable": lambda *held: _calling(_Holder(*held)),
    "in a partial": lambda *held: _calling(functools.partial(_step, *held)),
    "two deep": lambda *held: _Outer(*held).run,
    "slots": lambda *held: _Slots(*held).run,
    "named tuple": lambda *held: _unpacking(_Pair(*held)),
    "a kind of dict": lambda model, opt: _Parts(model=model, opt=opt).run,
    "class": _of_class,
    "defaults": _by_default,
    "compiled": lambda *held: torch.compile(_calling(functools.partial(_step, *held))),
}


@pytest.mark.parametrize("how", but(["given"], _HELD))
def test_a_step_leaves_a_model_alone_wherever_it_is_held(dynamo, how):
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))
    opt = torch.optim.AdamW(model.parameters())
    before = [w.detach().clone() for w in model.parameters()]
    weights, x = list(model.parameters()), torch.randn(4, 8)
    make = _HELD[how]
    step, given = (make(model, opt), (x,)) if make else (_step, (model, opt, x))
    report = tm.explain(step, *given, device="cpu", policies=["stock"])
    assert [g.kind for g in report.explanation.graphs] == ["forward", "backward", "inference"]
    assert all(one is other for one, other in zip(weights, model.parameters(), strict=True))
    assert all(map(torch.equal, before, weights))
    assert not opt.state
    assert all(w.grad is None for w in weights)
    assert not getattr(step, "losses", ())
