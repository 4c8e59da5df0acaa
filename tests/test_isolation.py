"""A capture leaves what the program has compiled alone, and takes nothing from it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

import torch_materialize as tm
from torch_materialize.core.devices import DEVICES
from torch_materialize.inductor.offline import capture as capturing
from torch_materialize.inductor.offline import fakes

pytestmark = pytest.mark.e2e


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return self.linear(x).relu() * 2


class Broken(Small):
    def forward(self, x):
        x = self.linear(x).relu()
        torch._dynamo.graph_break()
        return x * 2


def _captured(model, *inputs):
    mode = capturing.fake_mode()
    copied, args, kwargs = fakes.fake_copy(model, inputs, {}, mode)
    return capturing.capture(copied, args, kwargs, DEVICES["cpu"], mode)


@pytest.mark.parametrize("module", [Small, Broken])
def test_what_a_program_compiled_stays_compiled(dynamo, module):
    counter = CompileCounter()
    model, x = module(), torch.randn(4, 8)
    compiled = torch.compile(model, backend=counter)
    compiled(x)
    compiles, counted = counter.frame_count, {k: dict(v) for k, v in counters.items()}
    assert compiles
    tm.explain(compiled, x, device="cpu", policies=["stock"])
    assert {k: dict(v) for k, v in counters.items()} == counted
    compiled(x)
    assert counter.frame_count == compiles


@pytest.mark.full
def test_captures_take_nothing_from_the_recompilations_of_a_program(dynamo):
    counter, model = CompileCounter(), Broken()
    compiled = torch.compile(model, backend=counter, dynamic=False)
    compiled(torch.randn(1, 8))
    first = counter.frame_count
    with torch._dynamo.config.patch(recompile_limit=3, accumulated_recompile_limit=6):
        for rows in range(1, 9):
            _captured(model, torch.randn(rows, 8))
        compiled(torch.randn(2, 8))
        compiled(torch.randn(3, 8))
    assert counter.frame_count == 3 * first


@pytest.mark.parametrize("module", [Small, Broken])
def _sizes(values):
    return [size for x in values if isinstance(x, torch.Tensor) for size in x.shape]


@pytest.mark.parametrize("module", [Small, Broken])
def test_each_capture_is_static_and_leaves_no_size_to_compare_with(dynamo, module):
    model = module()
    for rows in (4, 6, 7):
        graphs = _captured(model, torch.randn(rows, 8))
        assert all(isinstance(size, int) for graph in graphs for size in _sizes(graph.inputs))
    compiled_for = []

    def backend(graph, inputs):
        compiled_for.extend(_sizes(inputs))
        return graph.forward

    torch.compile(model, backend=backend)(torch.randn(5, 8))
    assert compiled_for and all(isinstance(size, int) for size in compiled_for)


def test_a_program_that_hit_its_limit_or_forces_eager_can_still_be_captured(dynamo):
    model = Small()
    compiled = torch.compile(model, backend="eager", dynamic=False)
    with torch._dynamo.config.patch(recompile_limit=1):
        for rows in (1, 2, 3):
            compiled(torch.randn(rows, 8))
    assert _captured(model, torch.randn(4, 8))
    with torch.compiler.set_stance("force_eager"):
        assert _captured(model, torch.randn(4, 8))
