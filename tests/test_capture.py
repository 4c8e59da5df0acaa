"""What is captured for a planned device, in training too."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import torch_materialize as tm
from torch_materialize.core.devices import DEVICES
from torch_materialize.core.policy import STOCK
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

    monkeypatch.setattr(capturing, "_on_device", fail)
    with pytest.raises(tm.CaptureError, match="ValueError: strange strides"):
        _captured(nn.Linear(8, 8), (4, 8))
