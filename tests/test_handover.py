"""A compile takes over the trial lowering of what ships: the same code, one lowering fewer."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor import config, metrics
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.debug import ir_post_fusion_log
from torch._inductor.graph import GraphLowering
from torch._inductor.utils import run_and_get_code
from torch.nn import functional as F

import torch_materialize as tm
from tiers import but
from torch_materialize.core.devices import DEVICES
from torch_materialize.core.policy import parse
from torch_materialize.inductor.fx.policy_mark import POLICY_KEY
from torch_materialize.inductor.fx.post_grad import ungoverned_copy
from torch_materialize.inductor.fx.rounding import emulation
from torch_materialize.inductor.hooks import graph_lowering
from torch_materialize.inductor.lower.handover import Handover
from torch_materialize.inductor.lower.trial import run_lowering
from torch_materialize.inductor.lower.virtual_gpu import planned_device
from torch_materialize.inductor.offline.capture import capture, fake_mode
from torch_materialize.inductor.offline.dry_run import hooks_for

pytestmark = pytest.mark.long

# Every way to decide, with rounding and without.
POLICIES = ("plan", "plan:numerics=stock", "plan:numerics=eager", "plan:limits=random")


class Block(nn.Module):
    def __init__(self, size=256, **how):
        super().__init__()
        self.norm = nn.LayerNorm(size, **how)
        self.up, self.down = nn.Linear(size, 2 * size, **how), nn.Linear(2 * size, size, **how)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x)), approximate="tanh"))


def blocks(count=2):
    torch.manual_seed(0)
    return nn.Sequential(*(Block(dtype=torch.bfloat16) for _ in range(count)))


def norms(x, a, b):
    first = x + a
    second = first + torch.mm(F.rms_norm(first, first.shape[-1:]), b)
    return F.rms_norm(second, second.shape[-1:]), second


def written_into(x, a, b):
    """One input is written into, one output is a view, and one operator is foreign."""
    x.add_(a.sum(-1, keepdim=True))
    y = torch.cumsum(x.float(), -1).to(x.dtype)
    return torch.cat([y, torch.sort(x, -1).values], -1), y.t(), torch.mm(y, b)


def convolved(x, a, b):
    image = x.reshape(1, 4, 64, 256)
    weight = b[:16, :36].reshape(16, 4, 3, 3)
    y = F.batch_norm(F.conv2d(image, weight, padding=1), None, None, training=True)
    return F.max_pool2d(F.relu(y), 2), a.sum()


PROGRAMS = {"norms": norms, "written into": written_into, "convolved": convolved}


def arguments():
    torch.manual_seed(0)
    return [torch.randn(256, 256, dtype=torch.bfloat16) for _ in range(3)]


@pytest.fixture
def taken(monkeypatch):
    """For each graph whether its compile took over a trial lowering."""
    found, upstream = [], Handover.take

    def take(self, *args):
        found.append(upstream(self, *args))
        return found[-1]

    monkeypatch.setattr(Handover, "take", take)
    return found


@pytest.fixture
def lowering_again(monkeypatch):
    """A context in which compiles take nothing over."""

    @contextlib.contextmanager
    def during():
        with monkeypatch.context() as patch:
            patch.setattr(Handover, "take", lambda *_: False)
            yield

    return during


@pytest.fixture
def unbuilt(dynamo, monkeypatch):
    """No kernel is built: all that is read is code."""
    monkeypatch.setattr(AsyncCompile, "cpp_pybinding", lambda *_: lambda *_args: None)


def codes(program, args, policy="plan", *, training=False, **how):
    """What is generated for a program, without what is new in each compile."""
    torch._dynamo.reset()
    compiled = torch.compile(program, options=tm.options(policy), **how)

    def run():
        found = compiled(*args)
        if training:
            found.float().sum().backward()

    with contextlib.nullcontext() if training else torch.no_grad():
        _, sources = run_and_get_code(run)
    return [[line for line in one.splitlines() if "AOT ID" not in line] for one in sources]


@pytest.mark.parametrize("policy", but(["plan"], POLICIES))
@pytest.mark.parametrize("name", but(["norms"], PROGRAMS))
def test_the_code_is_that_of_a_lowering(name, policy, unbuilt, taken, lowering_again):
    ours = codes(PROGRAMS[name], arguments(), policy)
    assert taken == [True]
    with lowering_again():
        assert codes(PROGRAMS[name], arguments(), policy) == ours


@pytest.mark.full
@pytest.mark.parametrize("policy", POLICIES)
def test_the_code_of_a_step_is_that_of_a_lowering(policy, unbuilt, taken, lowering_again):
    args = [arguments()[0]]
    ours = codes(blocks(), args, policy, training=True)
    assert taken == [True, True]
    with lowering_again():
        assert codes(blocks(), args, policy, training=True) == ours


def test_a_compile_lowers_as_often_as_its_search(unbuilt, scheduled, monkeypatch):
    searched, search = [], graph_lowering.search

    def noted(*args, **how):
        searched.append(search(*args, **how))
        return searched[-1]

    monkeypatch.setattr(graph_lowering, "search", noted)
    codes(norms, arguments())
    (found,) = searched
    assert found.changes
    assert len(scheduled) == found.rounds


def test_it_counts_what_a_lowering_counts(unbuilt, taken, lowering_again):
    def counted():
        metrics.reset()
        counters.clear()
        codes(written_into, arguments())
        numbers = {k: v for k, v in vars(metrics).items() if isinstance(v, int)}
        return numbers, {group: Counter(count) for group, count in counters.items()}

    numbers, ours = counted()
    assert taken == [True]
    assert numbers["ir_nodes_pre_fusion"] > 0
    assert ours["inductor"]["extern_calls"] > 0
    with lowering_again():
        assert counted() == (numbers, ours)


def test_what_is_compiled_runs(dynamo, taken):
    args = arguments()
    with torch.no_grad():
        ours = torch.compile(norms, options=tm.options("plan:numerics=eager"))(*args)
    assert taken == [True]
    assert all(map(torch.equal, ours, norms(*args)))


@pytest.mark.full
@pytest.mark.parametrize("policy", ["plan", "plan:numerics=eager"])
@pytest.mark.parametrize("kind", ["inference", "forward", "backward"])
def test_the_code_for_a_planned_gpu_is_that_of_a_lowering(kind, policy, taken, lowering_again):
    ours = on_a_gpu(kind, policy)
    assert taken == [True]
    with lowering_again():
        assert on_a_gpu(kind, policy) == ours


def on_a_gpu(kind, policy):
    wanted, device = parse(policy), DEVICES["h200"]
    graph = next(one for one in captured(policy, kind == "inference") if one.kind == kind)
    module = ungoverned_copy(graph.module)
    module.meta[POLICY_KEY] = wanted
    with (
        planned_device(device),
        config.patch(emulation(wanted)),
        config.patch(compile_threads=1),
        hooks_for(wanted),
        pytest.MonkeyPatch.context() as patch,
        run_lowering(replace(graph, module=module), GraphLowering) as lowering,
    ):
        # Part of a kernel's cache key, and made from a driver that is not there.
        patch.setattr("torch.utils._triton.triton_hash_with_backend", lambda: "")
        code, _ = lowering.codegen()
    return str(getattr(code, "value", code))


@functools.cache
def captured(policy, inference):
    mode, device = fake_mode(), DEVICES["h200"]
    with mode:
        model, args = blocks(), arguments()[:1]
    return capture(model, args, {}, device, mode, training=not inference, policy=parse(policy))


# What a trial lowering does otherwise than a compile, or a compile alone.

SETTINGS = {
    "what is measured": {"max_autotune": True},
    "fusions are measured": {"benchmark_fusion": True},
    "combo kernels": {"combo_kernels": True},
    "a pass on what is scheduled": {"_post_fusion_custom_pass": lambda nodes: nodes},
    "a pass for overlap": {"reorder_for_compute_comm_overlap_passes": [lambda nodes: nodes]},
}


@pytest.mark.parametrize("case", but(["a pass on what is scheduled"], SETTINGS))
def test_other_settings_lower_again(case, unbuilt, taken):
    with config.patch(SETTINGS[case]):
        codes(norms, arguments())
    assert taken == [False]


def test_a_debug_folder_is_written_by_a_lowering(unbuilt, taken, tmp_path):
    with config.patch({"trace.enabled": True, "trace.debug_dir": str(tmp_path)}):
        codes(norms, arguments())
    assert taken == [False]
    assert list(tmp_path.rglob("ir_post_fusion.txt"))


def test_what_is_logged_last_is_what_ships(unbuilt, taken, caplog):
    with caplog.at_level(logging.INFO, logger=ir_post_fusion_log.name):
        codes(norms, arguments())
    assert taken == [False]


def test_tune_searches_with_other_settings_and_takes_nothing_over(unbuilt, taken, monkeypatch):
    given = []
    monkeypatch.setattr(graph_lowering, "tuned", lambda graph, *_: given.append(graph.handover))
    codes(norms, arguments(), "tune")
    assert given == [None]
    assert taken == [True]  # the search that it left the graph to


def test_what_is_learned_of_sizes_is_learned_by_a_lowering(unbuilt, taken):
    codes(norms, arguments(), dynamic=True)
    assert taken == [False]


def test_pins_are_reported_by_a_lowering(unbuilt, taken):
    def pinned(x, a, b):
        return norms(tm.keep(x + a), a, b)

    codes(pinned, arguments())
    assert taken == [False]


@pytest.mark.full
def test_bodies_are_planned_by_a_lowering(unbuilt, taken):
    def branching(x, a, b):
        return torch.cond(x.sum() > 0, lambda x, a: (x + a).sin(), lambda x, a: x - a, (x, a))

    codes(branching, arguments())
    assert not any(taken)


@pytest.mark.full
def test_layers_that_were_left_out_are_lowered(unbuilt, taken, lowering_again):
    ours = codes(blocks(count=8), arguments()[:1])
    assert taken == [False]
    with lowering_again():
        assert codes(blocks(count=8), arguments()[:1]) == ours


def test_where_it_fails_the_graph_is_lowered(unbuilt, lenient, lowering_again, monkeypatch):
    with lowering_again():
        usual = codes(norms, arguments())

    def fails(*_):
        raise RuntimeError("Planted: hand over")

    monkeypatch.setattr(Handover, "take", fails)
    assert codes(norms, arguments()) == usual
    assert ["Planted: hand over" in record.getMessage() for record in lenient.records] == [True]
