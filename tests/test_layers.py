"""Repeated layers: found, left out, and decided like the ones that stay."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from torch_materialize.core.devices import DEVICES
from torch_materialize.core.policy import Policy
from torch_materialize.core.traffic import traffic
from torch_materialize.inductor.fx.layers import Shortened, shorten
from torch_materialize.inductor.offline import capture as capturing
from torch_materialize.inductor.offline.dry_run import dry_run
from torch_materialize.inductor.plan import search as searching
from torch_materialize.models.decoder import Decoder

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("dynamo")]
H200 = DEVICES["h200"]


def captured(model, *shapes, dtype=torch.bfloat16):
    mode = capturing.fake_mode()
    with mode:
        built = model()
        inputs = [torch.empty(shape, dtype=dtype) for shape in shapes]
    (graph,) = capturing.capture(built, inputs, {}, H200, mode, dynamic=False)
    return graph


def decoder(layers):
    return captured(lambda: Decoder(layers, 256, 512).eval(), (512, 256))


def computed(graph):
    return [node for node in graph.module.graph.nodes if node.op == "call_function"]


@pytest.mark.full
def test_what_is_left_does_not_grow_with_the_layers():
    few, many = shorten(decoder(8)), shorten(decoder(20))
    assert len(computed(few.graph)) == len(computed(many.graph)) < len(computed(decoder(8)))
    assert len(many.copies) > 2 * len(few.copies)


def test_few_layers_stay_as_they_are():
    graph = decoder(4)
    assert shorten(graph).graph is graph


@pytest.mark.full
def test_every_copy_has_a_counterpart_of_its_own_kind():
    graph = decoder(10)
    short = shorten(graph)
    nodes = {node.name: node for node in graph.module.graph.nodes}
    left = {node.name for node in short.graph.module.graph.nodes}
    for gone, kept in short.copies:
        assert gone not in left and kept in left
        assert nodes[gone].target is nodes[kept].target
        assert str(nodes[gone].meta["val"]) == str(nodes[kept].meta["val"])


def test_an_encoder_and_a_decoder_are_two_stacks():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = (
                nn.ParameterList([torch.empty(64, 64) for _ in range(9)]) for _ in range(2)
            )

        def forward(self, x):
            for weight in self.encoder:
                x = (x @ weight).relu() + x
            y = x.sum(-1, keepdim=True).tanh()
            for weight in self.decoder:
                y = (y + x @ weight).softmax(-1)
            return y

    graph = captured(Both, (32, 64), dtype=torch.float32)
    short = shorten(graph)
    gone = {name for name, _ in short.copies}
    targets = {str(n.target) for n in graph.module.graph.nodes if n.name in gone}
    assert any("relu" in t for t in targets) and any("exp" in t or "softmax" in t for t in targets)


class Collects(nn.Module):
    """Nine layers, whose results are all handed to ``finish``."""

    def __init__(self, finish):
        super().__init__()
        self.finish = finish
        self.weights = nn.ParameterList([torch.empty(64, 64) for _ in range(9)])

    def forward(self, x):
        seen = []
        for weight in self.weights:
            x = (x @ weight).relu() + x
            seen.append(x)
        return self.finish(seen)


def test_layers_that_are_read_later_are_not_left_out():
    joined = captured(
        lambda: Collects(lambda seen: torch.cat(seen, -1)), (32, 64), dtype=torch.float32
    )
    assert shorten(joined).graph is joined
    last = captured(lambda: Collects(lambda seen: seen[-1]), (32, 64), dtype=torch.float32)
    assert shorten(last).copies


def test_outputs_of_layers_left_out_keep_the_others_places():
    graph = captured(lambda: Collects(list), (32, 64), dtype=torch.float32)
    (output,) = shorten(graph).graph.module.graph.find_nodes(op="output")
    values = output.args[0]
    assert len(values) == 9
    assert values[0] is not None and values[4] is None and values[8] is not None


@pytest.mark.full
@pytest.mark.parametrize("layers", [8, 12])
def test_a_plan_from_a_few_layers_is_the_plan_for_all(monkeypatch, layers):
    graph = captured(lambda: Decoder(layers, 4096, 16384).eval(), (8192, 4096))
    plan = Policy("plan")
    ours = traffic(dry_run(graph, plan, H200).graph)
    monkeypatch.setattr(searching, "shorten", Shortened)
    whole = traffic(dry_run(graph, plan, H200).graph)
    assert ours == whole
    stock = traffic(dry_run(graph, Policy("stock"), H200).graph)
    assert ours.bytes < stock.bytes


def test_names_are_expanded_to_the_layers_left_out():
    short = shorten(decoder(9))
    gone, kept = short.copies[0]
    assert short.expand(frozenset({kept})) >= {gone, kept}
    assert gone not in short.expand(frozenset())
    group = next(group for group in short.alike if kept in group)
    assert short.spread(frozenset({group[0]})) == set(group)
    assert replace(short, copies=()).expand(frozenset({kept})) == {kept}
