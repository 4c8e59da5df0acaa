"""What a search claims is what ships: roundings are lowered and measured like the rest."""

from __future__ import annotations

import functools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._inductor import config
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.scheduler import Scheduler
from torch.nn import functional as F

import torch_materialize as tm
from tiers import but
from torch_materialize.core.dag import Kind, written_again
from torch_materialize.core.devices import CPU, DEVICES
from torch_materialize.core.limits import limits_for
from torch_materialize.core.planner import least
from torch_materialize.core.policy import parse
from torch_materialize.core.story import gap_parts
from torch_materialize.core.traffic import traffic
from torch_materialize.inductor.fx.decision import Decision
from torch_materialize.inductor.fx.rounding import across, emulation
from torch_materialize.inductor.hooks import graph_lowering
from torch_materialize.inductor.lower.virtual_gpu import planned_device
from torch_materialize.inductor.offline import capture as capturing
from torch_materialize.inductor.offline.dry_run import hooks_for
from torch_materialize.inductor.plan import rounds, settle
from torch_materialize.inductor.plan import search as searching
from torch_materialize.inductor.plan.search import search, unlike_claimed
from torch_materialize.inductor.read.kernels import read_scheduled

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


@pytest.mark.parametrize(
    "policy", but(["plan"], ["plan", "plan:limits=strong", "plan:numerics=eager"])
)
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
    upstream = Scheduler.codegen

    def noted(*args, **how):
        claimed.append(search(*args, **{**how, "certify": True}))
        return claimed[-1]

    def codegen(self):
        real.append(traffic(read_scheduled()))
        return upstream(self)

    monkeypatch.setattr(graph_lowering, "search", noted)
    monkeypatch.setattr(Scheduler, "codegen", codegen)
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


@functools.cache
def matmul():
    """One that no compiler looks into."""
    name = "torch_materialize_settle_tests::matmul"
    operator = torch.library.custom_op(name, torch.mm, mutates_args=(), schema=_TWO)
    operator.register_fake(lambda a, b: a.new_empty(a.shape[0], b.shape[1]))
    return torch.ops.torch_materialize_settle_tests.matmul.default


_TWO = "(Tensor a, Tensor b) -> Tensor"


def wide_norm(x, weight):
    x = x.float()
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + weight.float())


def first(ids, table, scale, weight):
    x = F.embedding(ids, table) * scale
    return x, wide_norm(x, weight).bfloat16(), x


def behind(y, x, weight):
    """As Gemma has it: a norm behind the operator, too, and none of the sums rounded."""
    total = wide_norm(y, weight).bfloat16().float() + x.float()
    normed = wide_norm(total, weight)
    return total.bfloat16(), normed.bfloat16(), normed


def stream(ids, table, scale, weight, matrix, multiply, pieces=(first, behind)):
    one, other = pieces
    x, y, _ = one(ids, table, scale, weight)
    for _ in range(3):
        x, y, wide = other(multiply(y, matrix), x, weight)
    return x, wide


def stream_inputs():
    torch.manual_seed(0)
    ids = torch.randint(100, (512,), dtype=torch.int32)
    scale, weight = torch.tensor(16.0, dtype=torch.bfloat16), bf16(256) / 10
    return ids, bf16(100, 256), scale, weight, bf16(256, 256)


def gated(ids, table, scale, weight, matrix, multiply):
    """A stream with a large value that is made of small ones, and used behind the operator."""
    gate = torch.outer(ids.float(), weight.float()).bfloat16()
    x, y, _ = first(ids, table, scale, weight)
    for _ in range(3):
        x, y, wide = behind(multiply(y, matrix) * gate, x, weight)
    return x, wide


def searched(numerics="stored", limits=None, program=stream):
    """What is decided about the stream as one graph, and what crosses the operator in it."""
    mode = capturing.fake_mode()
    inputs = [mode.from_tensor(x) for x in stream_inputs()]
    policy, multiply = parse(f"plan:numerics={numerics}"), matmul()
    (graph,) = capturing.capture(
        lambda *x: program(*x, multiply), inputs, {}, CPU, mode, policy=policy
    )
    found = searched_on_cpu(graph, policy, limits)
    return found, crossing_in(graph, found.dag)


def searched_on_cpu(graph, policy, limits=None):
    with config.patch(emulation(policy)), hooks_for(policy):
        return search(graph, limits or limits_for(CPU), policy, certify=False)


def crossing_in(graph, dag):
    """What could be inlined, and is used behind an opaque operator."""
    return across(graph.module, dag) & {v.node for v in dag.values if v.kind is Kind.POINTWISE}


@pytest.mark.full
@pytest.mark.parametrize("numerics", ["stored", "eager"])
def test_what_crosses_an_opaque_operator_is_written_where_that_costs_no_bytes(
    numerics, monkeypatch
):
    found, crossing = searched(numerics)
    written = found.dag.nodes(found.dag.homes())
    assert len(crossing) == 3  # the embedding and two of three residuals; the last is an output
    assert crossing <= written and crossing <= found.marked
    monkeypatch.setattr(rounds, "as_cut", lambda _, one, state, *_more, **_how: (one, state))
    before, _ = searched(numerics)
    assert found.dag.measured < before.dag.measured <= before.stock_dag.measured


@pytest.mark.parametrize("numerics", but(["stored"], ["stored", "eager"]))
def test_what_is_cheaper_to_recompute_is_not_written_where_it_crosses(numerics):
    found, crossing = searched(numerics, program=gated)
    # The two sums of the stream; not what is made of small ones, nor 512 rows out of 100.
    written = crossing & found.dag.nodes(found.dag.homes())
    assert (len(written), len(crossing)) == (2, 4)
    every, some, *_ = (step for step in found.steps if step.why == "written where it crosses")
    assert crossing <= every.decision.marked
    assert some.decision.marked & crossing == written
    assert found.dag.measured < found.stock_dag.measured


@pytest.fixture
def layers_of_operators():
    """Without its fast path a layer of an encoder is no operator of its own."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


@pytest.mark.usefixtures("layers_of_operators")
def test_what_inductor_writes_of_what_crosses_stays_written_once_the_rest_is():
    """Of an encoder's residuals it writes those with many readers: fewer read, it would not."""
    layer = nn.TransformerEncoderLayer(64, 2, 128, batch_first=True, norm_first=True)
    model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    mode, policy = capturing.fake_mode(), parse("plan")
    with mode:
        x = torch.empty(2, 64, 64)
    (graph,) = capturing.capture(model, [x], {}, CPU, mode, policy=policy)
    found = searched_on_cpu(graph, policy)
    crossing, before = crossing_in(graph, found.dag), found.stock_dag
    assert crossing & before.nodes(before.homes())  # written before, too
    assert crossing <= found.dag.nodes(found.dag.homes())
    assert found.dag.measured <= before.measured
    assert [step.why for step in found.steps].count("written where it crosses") == 1


@pytest.mark.full
def test_in_a_training_step_nothing_is_written_only_since_it_crosses():
    mode = capturing.fake_mode()
    inputs = [mode.from_tensor(x) for x in stream_inputs()]
    for x in inputs[1:]:
        x.requires_grad_(True)
    policy = parse("plan")
    graphs = capturing.capture(
        lambda *x: stream(*x, torch.matmul), inputs, {}, CPU, mode, policy=policy, training=True
    )
    for graph in graphs:
        found = searched_on_cpu(graph, policy)
        assert across(graph.module, found.stock_dag) - found.dag.nodes(found.dag.homes())
        assert "written where it crosses" not in {step.why for step in found.steps}


@pytest.mark.full
@pytest.mark.parametrize("numerics", ["stored", "eager"])
def test_a_poor_plan_is_left_for_what_the_pieces_write(numerics, monkeypatch):
    """As of a small vLLM MoE: its plan wrote a wide sum, and to go on was not worth the seconds."""
    best, crossing = searched(numerics)

    def poor(self):
        self.trials.measure("a poor plan", crossing | {"convert_element_type_1"})

    monkeypatch.setattr(rounds.Rounds, "run", poor)
    limits = replace(limits_for(CPU).only_bytes, launch_bytes=0)
    found, _ = searched(numerics, limits)
    assert found.store is None and crossing <= found.dag.nodes(found.dag.homes())
    assert found.dag.measured == best.dag.measured < found.stock_dag.measured
    monkeypatch.setattr(rounds.Rounds, "_as_pieces", lambda _: None)
    worse, _ = searched(numerics, limits)
    assert worse.store is not None and best.dag.measured < worse.dag.measured


def test_what_the_kernels_of_a_rounded_plan_need_is_rounded_too(monkeypatch):
    """Lowered with 7 roundings a Jamba's kernels needed 8, and one value was stored unrounded."""
    needs = {"a": "ab", "ab": "b", "c": "c"}
    needs = {frozenset(rounded): frozenset(more) for rounded, more in needs.items()}

    def stub(_module, decision, needed):
        return replace(decision, rounded=needed)

    def attempt(decision):
        tried.append(decision.rounded)
        return SimpleNamespace(dag=needs[decision.rounded])

    monkeypatch.setattr(settle, "with_rounding", stub)
    for start, want in (("a", "ab"), ("c", "c")):
        tried = []
        first = Decision(rounded=frozenset(start))
        decision, after = settle._rounded_enough(None, first, attempt(first), attempt)
        assert decision.rounded == frozenset(want) == tried[-1]
        assert after.dag <= decision.rounded
    endless = (frozenset(str(n)) for n in range(100))

    def never(decision):
        return SimpleNamespace(dag=next(endless))

    assert settle._rounded_enough(None, Decision(), never(None), never)[1] is None


@pytest.mark.parametrize("program", but(["concatenated"], PROGRAMS))
def test_a_search_ends_with_nothing_more_promised_from_what_ships(program, monkeypatch):
    """A Mamba's kernels as rounded let 5% more be saved than those that it was planned on."""
    device, climbed = DEVICES["h200"], []
    upstream = rounds.Rounds._climb

    def noted(self, start, limits=None):
        climbed.append(start.dag)
        upstream(self, start, limits)

    monkeypatch.setattr(rounds.Rounds, "_climb", noted)
    for graph in graphs_of(program, device, "plan:limits=strong"):
        policy = parse("plan:limits=strong")
        with planned_device(device), config.patch(emulation(policy)), hooks_for(policy):
            found = search(graph, limits_for(device), policy, certify=False)
        assert found.store is None or any(found.dag is dag for dag in climbed)


@pytest.mark.full
def test_what_another_start_has_lowered_is_no_failure_of_this_one(monkeypatch):
    """A start gives up after so many trial lowerings without a gain: one that was made before costs
    none.  A RegNet's backward and a VAE's decoder have better plans behind such a one.
    """
    failures, climb, misplaced = [], rounds.Rounds._climb, rounds.misplaced

    def begun(self, *args):
        failures.append(0)
        climb(self, *args)

    def missed(*args):
        failures[-1] += 1
        return misplaced(*args)

    monkeypatch.setattr(rounds.Rounds, "_climb", begun)
    monkeypatch.setattr(rounds, "misplaced", missed)
    device, policy = DEVICES["h200"], parse("plan:limits=strong")
    for graph in graphs_of("mixed, training", device, str(policy)):
        with planned_device(device), hooks_for(policy):
            search(graph, replace(limits_for(device), patience=1), policy, certify=False)
    assert max(failures) > 1


def test_the_bound_counts_what_is_written_where_stock_s_choice_is_kept():
    """Found by the fuzz: of stock's own kernels nothing could be saved, of those that ship 30%."""
    multiply, mode, policy = matmul(), capturing.fake_mode(), parse("plan")

    def crossed(x):
        y = x * x * x
        return torch.exp(-(x * x).abs()) - y, multiply(y, y), multiply(y, y) + y, x.mean(0)

    x = mode.from_tensor(torch.randn(64, 64))
    (graph,) = capturing.capture(crossed, [x], {}, CPU, mode, policy=policy)
    with hooks_for(policy):
        found = search(graph, limits_for(CPU), policy)
    assert found.store is None
    assert found.dag.measured < 0.75 * found.stock_dag.measured
    assert found.bound <= found.dag.measured + 1


@pytest.mark.parametrize("share, unfused", [(1.0, 0), (0.8, 1)])
def test_what_the_plan_behind_a_bound_moves_when_it_is_lowered_is_said(share, unfused, monkeypatch):
    """A plan that promises what no lowering keeps: all of its gap is for fusions not made."""

    def promising(*args):
        found = least(*args)
        return replace(found, bound=found.bound * share, predicted=int(found.predicted * share))

    monkeypatch.setattr(searching, "least", promising)
    (graph,) = graphs_of("concatenated", DEVICES["h200"], "plan")
    with planned_device(DEVICES["h200"]), hooks_for(parse("plan")):
        found = search(graph, limits_for(DEVICES["h200"]))
    gap = found.dag.measured - round(found.bound)
    parts = gap_parts(found.dag.measured, found.bound, found.refused, found.unfused)
    assert parts.get("fusion", 0) == pytest.approx(gap * unfused, rel=1e-3)
    assert bool(found.unfused) == bool(unfused)


@pytest.mark.full
def test_what_would_move_more_is_not_written_for_a_cut(monkeypatch):
    """A dry run of ours that moves a byte more than before is not taken, nor any half of it."""
    upstream, tried = rounds.as_cut, []

    def dearer(module, decision, state, candidates, _attempt, **how):
        kernel = replace(state.dag.kernels[0], measured=state.dag.kernels[0].measured + 1)
        more = replace(state.dag, kernels=(kernel, *state.dag.kernels[1:]))

        def attempted(wanted):
            tried.append(wanted.marked)
            return replace(state, dag=more)

        return upstream(module, decision, state, candidates, attempted, **how)

    monkeypatch.setattr(rounds, "as_cut", dearer)
    found, crossing = searched()
    assert len(tried) > 1 and tried[0] >= crossing
    assert not found.marked & crossing


@torch.no_grad()
@pytest.mark.full
def test_a_graph_and_its_pieces_sum_up_alike():
    """The norms of the whole graph load what those of the pieces load, and nothing besides."""
    inputs, multiply, options = stream_inputs(), matmul(), tm.options("plan")
    whole = torch.compile(lambda *x: stream(*x, multiply), options=options)(*inputs)
    torch._dynamo.reset()
    pieces = [torch.compile(part, options=options) for part in (first, behind)]
    for one, other in zip(whole, stream(*inputs, multiply, pieces), strict=True):
        assert torch.equal(one, other)


@functools.cache
def experts():
    """As vLLM's mixture of experts: one tensor for experts, which may write to it, and router."""
    operator = torch.library.custom_op(
        "torch_materialize_settle_tests::experts",
        lambda x, routed: x.clone(),
        mutates_args=("x",),
        schema="(Tensor(a!) x, Tensor routed) -> Tensor",
        tags=(torch.Tag.needs_fixed_stride_order,),
    )
    operator.register_fake(lambda x, _: torch.empty_like(x))
    return torch.ops.torch_materialize_settle_tests.experts.default


@pytest.mark.parametrize("name", but(["cpu"], ["cpu", "h200"]))
def test_what_one_operator_reads_twice_is_written_once(name):
    device, policy, mode = DEVICES[name], parse("plan"), capturing.fake_mode()
    mixed = experts()

    def layers(x, weight):
        for _ in range(3):
            normed = x / (x.abs().amax(-1, keepdim=True) + 1) * weight
            x = mixed(normed, normed)
        return x

    with mode:
        inputs = torch.empty(64, 1024, dtype=torch.bfloat16), torch.empty(1024).bfloat16()
    (graph,) = capturing.capture(layers, inputs, {}, device, mode, policy=policy)
    with planned_device(device), hooks_for(policy):
        found = search(graph, limits_for(device), policy, certify=False)
    again = written_again(found.stock_dag)
    assert len(again) == 3 and not written_again(found.dag)
    assert found.dag.measured == found.stock_dag.measured - sum(again.values())
