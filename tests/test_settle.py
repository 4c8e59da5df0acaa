"""What a search claims is what ships: roundings are lowered and measured like the rest."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._inductor import config
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.graph import GraphLowering
from torch.nn import functional as F

import torch_materialize as tm
from tiers import but
from torch_materialize.core.devices import DEVICES
from torch_materialize.core.limits import limits_for
from torch_materialize.core.policy import parse
from torch_materialize.core.traffic import traffic
from torch_materialize.inductor.fx.rounding import emulation
from torch_materialize.inductor.hooks import graph_lowering
from torch_materialize.inductor.lower.virtual_gpu import planned_device
from torch_materialize.inductor.offline import capture as capturing
from torch_materialize.inductor.offline.dry_run import hooks_for
from torch_materialize.inductor.plan.search import search, unlike_claimed
from torch_materialize.inductor.read.kernels import read_scheduled
from torch_materialize.inductor.read.recording import Recording

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.usefixtures("dynamo")]


class Branch(nn.Module):
    def __init__(self, width, kernel):
        super().__init__()
        self.conv = nn.Conv2d(width, 16, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)))


class Mixed(nn.Module):
    """As Inception has it: branches concatenated with a max pool, and used behind a convolution."""

    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleList(
            [nn.ModuleList([Branch(16, 1), Branch(16, 3), Branch(16, 5)]) for _ in range(2)]
        )
        self.narrow = nn.ModuleList([Branch(64, 1) for _ in range(2)])

    def forward(self, x):
        for branches, narrow in zip(self.branches, self.narrow, strict=True):
            mixed = torch.cat([branch(x) for branch in branches] + [F.max_pool2d(x, 3, 1, 1)], 1)
            x = narrow(mixed) + F.max_pool2d(mixed[:, :16], 3, 1, 1)
        return x


def concatenated(x, w, y):
    """Parts that are computed, concatenated and used on both sides of a matmul."""
    parts = torch.cat([x * y, torch.relu(x) + y, x.clamp(0, 1)], -1)
    behind = parts @ w
    return behind.relu() + 1, parts.exp().sum(-1), F.max_pool1d(parts, 2) * 2


def bf16(*shape):
    return torch.randn(*shape, dtype=torch.bfloat16)


PROGRAMS = {
    "concatenated": (
        lambda: concatenated,
        lambda: [bf16(64, 128), bf16(384, 256), bf16(64, 128)],
        False,
    ),
    "mixed": (Mixed, lambda: [bf16(4, 16, 28, 28)], False),
    "mixed, training": (Mixed, lambda: [bf16(4, 16, 28, 28)], True),
}


def graphs_of(name, device, policy):
    build, inputs, training = PROGRAMS[name]
    mode = capturing.fake_mode()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with mode:
            model = build()
    finally:
        torch.set_default_dtype(before)
    arguments = [mode.from_tensor(x) for x in inputs()]
    return capturing.capture(
        model, arguments, {}, device, mode, training=training, policy=parse(policy)
    )


@pytest.mark.parametrize("policy", ["plan", "plan:limits=strong", "plan:numerics=eager"])
@pytest.mark.parametrize("device", ["cpu", "h200"])
@pytest.mark.parametrize("program", but(["concatenated"], PROGRAMS))
def test_what_ships_is_what_is_claimed_and_never_more_than_stock(program, device, policy):
    known, wanted = DEVICES[device], parse(policy)
    for graph in graphs_of(program, known, policy):
        with planned_device(known), config.patch(emulation(wanted)), hooks_for(wanted):
            found = search(graph, limits_for(known), wanted)
            assert unlike_claimed(graph, found, wanted) == ""
        ours, stock = traffic(found.graph), traffic(found.stock)
        if found.store is None:
            assert ours.bytes <= stock.bytes
        else:
            assert ours.bytes < stock.bytes


@pytest.mark.parametrize("policy", ["plan", "plan:limits=random", "plan:numerics=eager"])
@pytest.mark.parametrize("program", but(["concatenated"], ["concatenated", "mixed"]))
def test_a_real_compile_schedules_what_was_claimed(program, policy, monkeypatch):
    """Through Dynamo and our hooks; no kernel is built."""
    claimed, real = [], []
    upstream = GraphLowering._update_scheduler

    def noted(*args, **how):
        claimed.append(search(*args, **{**how, "certify": True}))
        return claimed[-1]

    def scheduled(self):
        upstream(self)
        if not isinstance(self, Recording):
            real.append(traffic(read_scheduled()))

    monkeypatch.setattr(graph_lowering, "search", noted)
    monkeypatch.setattr(GraphLowering, "_update_scheduler", scheduled)
    monkeypatch.setattr(AsyncCompile, "cpp_pybinding", lambda *_: lambda *_args: None)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = PROGRAMS[program][0]()
    finally:
        torch.set_default_dtype(before)
    with torch.no_grad():
        torch.compile(model, options=tm.options(policy))(*PROGRAMS[program][1]())
    assert real
    assert [(t.bytes, t.kernels) for t in real] == [
        (t.bytes, t.kernels) for t in (traffic(found.graph) for found in claimed)
    ]
