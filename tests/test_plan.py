"""Policy `plan` on real graphs: bytes on a planned GPU, real CPU compiles, and its limits."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._inductor import config
from torch._inductor import graph as graph_module
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch._inductor.utils import run_and_get_code

import torch_materialize as tm
from test_compile import Block, decides_nothing, mutation, softmax_and_norms, views_and_slices
from tiers import but
from torch_materialize.core.candidates import Candidates
from torch_materialize.core.cost import KINDS, Load, Rates, seconds_of
from torch_materialize.core.dag import moved
from torch_materialize.core.devices import CPU, DEVICES
from torch_materialize.core.limits import Limits
from torch_materialize.core.policy import STOCK
from torch_materialize.core.traffic import traffic
from torch_materialize.inductor.fx.layers import shorten
from torch_materialize.inductor.hooks import graph_lowering
from torch_materialize.inductor.offline import capture as capturing
from torch_materialize.inductor.offline.dry_run import dry_run, hooks_for
from torch_materialize.inductor.plan import rounds
from torch_materialize.inductor.plan.search import replay, search
from torch_materialize.jobs.explain import compare
from torch_materialize.models.decoder import Decoder

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("dynamo")]
PLAN = tm.Policy("plan")


@pytest.mark.parametrize(
    "target", but(["fused-add-rmsnorm"], ["fused-add-rmsnorm", "fused-add-rmsnorm-hf"])
)
def test_decoder_moves_the_least(target):
    """161 units is the least that these kernels can move; stock moves 188 and 173."""
    found = compare(target, ["stock", "plan"], "h200", tracing="make_fx")
    assert found.traffic("plan").bytes / found.unit_bytes == pytest.approx(161, abs=0.01)
    assert found.bound("plan") == pytest.approx(found.traffic("plan").bytes, rel=1e-3)
    assert found.traffic("plan").kernels <= found.traffic("stock").kernels


def both(function, *shapes, device="h200", dtype=torch.float32):
    mode = capturing.fake_mode()
    with mode:
        inputs = [torch.empty(shape, dtype=dtype) for shape in shapes]
    planned_for = DEVICES[device]
    graphs = capturing.capture(function, inputs, {}, planned_for, mode)
    sums = []
    for policy in (STOCK, PLAN):
        runs = [dry_run(graph, policy, planned_for) for graph in graphs]
        sums.append(sum(traffic(run.graph).bytes for run in runs))
    return sums


def test_a_plan_that_promises_too_little_for_its_dry_run_is_not_tried():
    mode = capturing.fake_mode()
    with mode:
        x = torch.empty(64, 64)
    cpu = DEVICES["cpu"]

    def many_readers(x):
        y = x * 2 + 1
        return [y.roll(i, 0) for i in range(6)]

    (graph,) = capturing.capture(many_readers, [x], {}, cpu, mode)
    with hooks_for(PLAN):
        limits = graph_lowering.limits_for(CPU)
        assert limits.node_bytes > 0
        tried = search(graph, replace(limits, node_bytes=0.0, worth=-1.0), certify=False)
        left = search(graph, replace(limits, node_bytes=1e9, worth=-1.0), certify=False)
    assert tried.rounds > 1
    assert left.rounds == 1
    assert left.store is None


def decoder_graph(around=lambda decoder: decoder, *shapes):
    """A small decoder in vLLM's style on a CPU, with whatever ``around`` makes of it."""
    mode = capturing.fake_mode()
    with mode:
        model = around(Decoder(2, 256, None, "vllm").eval())
        inputs = [torch.empty(512, 256).bfloat16(), *map(torch.empty, shapes)]
    (graph,) = capturing.capture(model, inputs, {}, CPU, mode)
    return graph


def chained(decoder):
    """A decoder and chains that are read twice each."""

    def model(x):
        chains = [(((x.float() * i + 1) * i + 2) * i + 3) * i + 4 for i in range(1, 7)]
        return decoder(x), [(chain.sum(0), chain.sum(1)) for chain in chains]

    return model


# Operations are so dear here that every chain would be written: more than stock moves.
DEAR = Rates(dict.fromkeys(KINDS, Load(read=1e-12, write=1e-12, operations=1e-9)), cache=0)


def test_a_plan_that_does_not_pay_for_the_kernels_it_is_made_for_is_not_lowered(monkeypatch):
    """A DiT's backward: 5 kernels more than stock's, which no plan for them saves enough for."""
    graph, limits = decoder_graph(), Limits(least_bytes=0, launch_bytes=0)
    asked = []

    def pays(_candidates, moved, kernels):
        asked.append((moved, kernels))
        return False

    with hooks_for(PLAN):
        found = search(graph, limits, certify=False)
        monkeypatch.setattr(Candidates, "pays", pays)
        unpaid = search(graph, limits, certify=False)
    assert "a plan" in [step.why for step in found.steps]
    assert "a plan" not in [step.why for step in unpaid.steps]
    assert asked[0] == (found.dag.measured, traffic(found.stock).kernels)


@pytest.mark.full
def test_when_enough_was_lowered_the_best_so_far_is_taken():
    """Stock and one plan are always lowered; nothing else is, once the limit is reached."""
    graph = decoder_graph(chained)
    limits = Limits(least_bytes=0, launch_bytes=0, balance=DEAR.balance, rates=DEAR)
    with hooks_for(PLAN):
        found, also_local, longer = (
            search(graph, one, certify=False)
            for one in (
                replace(limits, lowered=0),
                replace(limits, lowered=0, locally=True),
                limits,
            )
        )
    plans = [[step.why for step in one.steps].count("a plan") for one in (found, also_local)]
    assert plans == [1, 1]
    assert also_local.rounds == found.rounds
    assert [step.why for step in longer.steps].count("a plan") > 1
    assert longer.dag.measured < found.dag.measured


def test_what_only_an_opaque_reader_made_a_buffer_can_be_left_to_it():
    """Qwen3.5: a kernel computed the tensor anew; marked, it was written early and read there."""
    graph = decoder_graph()
    with hooks_for(PLAN):
        found = rounds.Rounds(shorten(graph), Limits(), PLAN)
        dag = found.trials.start.dag
        every, early = (found._needed(dag, late) for late in (True, False))
    values = {value.node: value for value in dag.values if value.node}
    assert early < every
    assert all(values[name].early for name in early)
    assert not any(values[name].early for name in every - early)


def test_where_rates_were_measured_a_plan_goes_by_time():
    graph = decoder_graph()
    # One plan, and no dry run besides for what crosses matmuls, which goes by bytes.
    by_bytes = Limits(node_bytes=0.0, launch_bytes=0, balance=0.0, lowered=0)
    writes = Rates({kind: Load(write=1e-9) for kind in KINDS}, cache=0)
    by_writes = replace(by_bytes, rates=writes)
    with hooks_for(PLAN):
        one, other = (search(graph, limits, certify=False) for limits in (by_bytes, by_writes))
    assert other.dag.measured > one.dag.measured
    assert by_writes.cost(other.dag) < by_writes.cost(one.dag)
    assert by_writes.cost(other.dag) <= by_writes.cost(other.stock_dag)


@pytest.mark.full
def test_where_the_least_time_moves_too_much_the_search_goes_on_for_bytes():
    graph = decoder_graph(chained)
    limits = Limits(least_bytes=0, launch_bytes=0, balance=DEAR.balance, rates=DEAR)
    with hooks_for(PLAN):
        found = search(graph, limits, certify=False)
        fewest = search(graph, limits.only_bytes, certify=False)
    assert found.rounds == fewest.rounds + 1
    assert found.store == fewest.store
    assert found.dag.measured < 0.8 * found.stock_dag.measured


class SqueezeExcite(nn.Module):
    """Batch norm reads five buffers, four of them per-channel vectors: counting reads, stock
    materializes its result, although SiLU and the gate could read the convolution's.
    """

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.first, self.gate, self.second = (
            nn.Conv2d(channels, channels, 1, bias=False) for _ in range(3)
        )
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        y = nn.functional.silu(self.norm(self.first(x)))
        return self.second(y * self.gate(y.mean((2, 3), keepdim=True)).sigmoid())


def test_a_needless_materialization_is_undone():
    mode = capturing.fake_mode()
    with mode:
        model, x = SqueezeExcite().eval(), torch.empty(8, 32, 64, 64)
    (graph,) = capturing.capture(model, [x], {}, DEVICES["h200"], mode)
    stock, plan = (dry_run(graph, p, DEVICES["h200"]).graph for p in (STOCK, PLAN))
    assert traffic(plan).bytes < 0.9 * traffic(stock).bytes
    assert len(plan.materialized()) < len(stock.materialized())


def test_the_trial_lowerings_of_a_search_can_be_made_again(caplog):
    caplog.set_level(logging.DEBUG, logger="torch_materialize")
    graph = decoder_graph()
    with hooks_for(PLAN):
        found = search(graph, Limits(least_bytes=0, launch_bytes=0), certify=False)
        pairs = list(replay(graph, found))
    assert len(pairs) == found.rounds >= 2
    assert all(step == now and step.bytes > 0 for step, now in pairs)
    assert found.steps[0].why == "stock" and "a plan" in {step.why for step in found.steps}
    assert min(step.bytes for step in found.steps) == traffic(found.graph).bytes
    assert sum("plan: trial lowering" in line for line in caplog.messages) == found.rounds


@pytest.mark.full
def test_a_plan_that_is_too_slow_writes_there_what_stock_writes():
    """One half of it should not be computed twice on this device; the other half stays planned."""

    def halves(decoder):
        other = SqueezeExcite().eval()
        return lambda x, y: (decoder(x), other(y))

    graph = decoder_graph(halves, (8, 32, 64, 64))
    rates = Rates(dict.fromkeys(KINDS, Load(read=1e-12, write=1e-12, operations=1e-10)), cache=0)
    limits = Limits(least_bytes=0, launch_bytes=0)
    with hooks_for(PLAN):
        fewest = search(graph, limits, certify=False)
        found = search(graph, replace(limits, refusing_rates=rates), certify=False)
    assert seconds_of(fewest.dag, rates) > seconds_of(fewest.stock_dag, rates)
    assert seconds_of(found.dag, rates) <= seconds_of(found.stock_dag, rates)
    assert found.dag.measured < found.stock_dag.measured
    assert found.store is not None and fewest.store is not None
    assert fewest.store < found.store


@pytest.mark.parametrize("device", ["h200", "cpu"])
@pytest.mark.parametrize("function", [softmax_and_norms, views_and_slices, mutation])
def test_never_worse(function, device):
    stock, plan = both(function, (256, 512), device=device)
    assert plan <= stock


@pytest.mark.parametrize(
    "function", [softmax_and_norms, views_and_slices, mutation, decides_nothing]
)
def test_function_as_eager(function):
    x = torch.randn(32, 48)
    want = function(x.clone())
    got = torch.compile(function, options=tm.options("plan"))(x.clone())
    torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-5)


@pytest.mark.full
def test_forward_and_backward_as_eager():
    torch.manual_seed(0)
    block = Block()
    x = torch.randn(2, 16, 64, requires_grad=True)
    want = block(x)
    grads = torch.autograd.grad(want.square().sum(), [x, *block.parameters()])
    got = torch.compile(block, options=tm.options("plan"))(x)
    torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-5)
    mine = torch.autograd.grad(got.square().sum(), [x, *block.parameters()])
    torch.testing.assert_close(mine, grads, rtol=1e-4, atol=1e-4)


def test_dynamic_batch():
    compiled = torch.compile(softmax_and_norms, dynamic=True, options=tm.options("plan"))
    for rows in (5, 32, 17):
        x = torch.randn(rows, 48)
        torch.testing.assert_close(compiled(x), softmax_and_norms(x), rtol=2e-5, atol=2e-5)


def code(function, policy, *inputs) -> str:
    torch._dynamo.reset()
    compiled = torch.compile(function, options=tm.options(policy))
    _, (text,) = run_and_get_code(compiled, *inputs)
    # The header names the temporary file of the graph, which is new each time.
    return "\n".join(line for line in text.splitlines() if "AOT ID" not in line)


def test_where_nothing_is_gained_the_code_is_stocks():
    x = torch.randn(64, 64)
    assert code(decides_nothing, "plan", x) == code(decides_nothing, "stock", x)
    assert code(lambda x: x.softmax(-1), "plan", x) == code(lambda x: x.softmax(-1), "stock", x)


@torch.no_grad()
@pytest.mark.full
def test_casts_that_no_plan_uses_are_folded_as_stock_folds_them():
    def casts(x):
        wide = x.float() * 2
        return wide.bfloat16().float() + 1

    def several(x, y):
        total = x.float() + y.float()
        narrow = total.bfloat16()
        return narrow.float().sin().bfloat16(), narrow

    x = torch.randn(64, 64).bfloat16()
    assert code(casts, "plan", x) == code(casts, "stock", x)
    # The narrow value of the other is written, and "stored" promises that everyone reads that.
    assert code(several, "plan:numerics=stock", x, x) == code(several, "stock", x, x)
    assert code(several, "plan", x, x) != code(several, "stock", x, x)


@pytest.mark.full
def test_decoder_moves_the_least_through_the_whole_pipeline():
    """On torch 2.11 and 2.12 the narrow residual is folded away unless it is held back."""
    found = compare("fused-add-rmsnorm", ["stock", "plan"], "h200", layers=4)
    assert found.traffic("stock").bytes / found.unit_bytes == pytest.approx(92, abs=0.01)
    assert found.traffic("plan").bytes / found.unit_bytes == pytest.approx(81, abs=0.01)


def decoder_case():
    torch.manual_seed(0)
    return Decoder(2, 256, 256, "vllm", random_norms=True).eval(), torch.randn(512, 256).bfloat16()


@torch.no_grad()
def test_a_plan_changes_a_real_compile_and_says_so(caplog):
    decoder, x = decoder_case()
    with caplog.at_level(logging.INFO, "torch_materialize"):
        ours = code(decoder, "plan", x)
    assert ours != code(decoder, "stock", x)
    assert "tensors materialized" in caplog.text


@torch.no_grad()
@pytest.mark.full
def test_the_narrow_cut_rounds_where_eager_rounds():
    """The issue's example in small; norm weights of 1, the matmul an opaque operator."""
    library = torch.library.Library("torch_materialize_tests", "FRAGMENT")
    library.define("matmul(Tensor a, Tensor b) -> Tensor")
    library.impl("matmul", lambda a, b: a[:, :1] * b[:1, :], "CompositeExplicitAutograd")
    library._register_fake("matmul", lambda a, b: a.new_empty(a.shape[0], b.shape[1]))
    torch.manual_seed(0)
    model = Decoder(2, 512, None, "vllm", torch.ops.torch_materialize_tests.matmul).eval()
    x = torch.randn(1024, 512).bfloat16()
    want = model(x)

    def equal(policy):
        torch._dynamo.reset()
        got = torch.compile(model, options=tm.options(policy))(x)
        return (got == want).float().mean().item()

    assert equal("plan") >= max(0.999, equal("stock"))


@torch.no_grad()
def test_a_broken_planner_leaves_stocks_code(monkeypatch, lenient):
    def broken(*_, **__):
        raise RuntimeError("planted")

    monkeypatch.setattr(graph_lowering, "search", broken)
    decoder, x = decoder_case()
    assert code(decoder, "plan", x) == code(decoder, "stock", x)
    assert "planted" in lenient.text
    monkeypatch.setenv("TORCH_MATERIALIZE_STRICT", "1")
    torch._dynamo.reset()
    with pytest.raises(Exception, match="planted"):
        torch.compile(decoder, options=tm.options("plan"))(x)


def captured(function, shapes, device):
    """The one post-grad graph of a function of bf16 tensors."""
    mode = capturing.fake_mode()
    with mode:
        made = [torch.empty(shape, dtype=torch.bfloat16) for shape in shapes]
    (graph,) = capturing.capture(function, made, {}, device, mode)
    return graph


@pytest.mark.full
def test_an_operator_that_copies_its_argument_hides_no_value():
    """vLLM's expert kernels take one tensor twice, may write into it and so get a copy of it. What
    makes the copy is known to the planner value by value; else a residual is not written, and
    "the least" lies above what can be reached.
    """
    library = torch.library.Library("torch_materialize_experts", "FRAGMENT")
    library.define("experts(Tensor(a!) x, Tensor y) -> Tensor")
    library.impl("experts", lambda x, y: x + y, "CompositeExplicitAutograd")
    library._register_fake("experts", lambda x, y: torch.empty_like(y))
    tokens, width = 256, 512

    def norm(x, residual):
        wide = x.float() + residual.float()
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return scaled.bfloat16(), wide.bfloat16()

    def run(layers, policy):
        def model(x, weight):
            residual = x
            for _ in range(layers):
                x, residual = norm(x @ weight, residual)
                x, residual = norm(torch.ops.torch_materialize_experts.experts(x, x), residual)
            return x

        graph = captured(model, ((tokens, width), (width, width)), DEVICES["h200"])
        return dry_run(graph, policy, DEVICES["h200"])

    dag = run(3, STOCK).dag
    for kernel, one in zip(dag.kernels, moved(dag, dag.homes()), strict=True):
        assert one.total(dag) == kernel.measured
    three, four = run(3, PLAN), run(4, PLAN)
    bytes_of = [traffic(found.graph).bytes for found in (three, four)]
    assert three.bound <= bytes_of[0]
    # Two read and two written before the experts and after them: x, once it is in memory, is
    # given to both arguments as the model gives it, without a copy.
    assert bytes_of[1] - bytes_of[0] == (4 + 4) * tokens * width * 2


def residual_chain(x, weight):
    """Six norms over one residual stream: `plan` materializes it, stock recomputes it."""
    residual = x
    for _ in range(6):
        wide = x.float() + residual.float()
        residual = wide.to(x.dtype)
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        x = (wide * scale).to(x.dtype) @ weight
    return x, residual


@pytest.mark.full
def test_what_is_concatenated_stays_a_part_of_it():
    """The halves of a rotated query are written where they belong on a CPU; marked as what must be
    written, and with strides of their own for it, they were copied there.
    """

    def rotated(x, weight):
        y, residual = residual_chain(x, weight)
        one, other = y.view(-1, 4, 64).chunk(2, -1)
        halves = one * 0.8 - other * 0.6, other * 0.8 + one * 0.6
        return torch.cat(halves, -1).reshape(-1, 256) @ weight, residual

    graph = captured(rotated, ((4096, 256), (256, 256)), CPU)
    found = dry_run(graph, PLAN, CPU)
    assert not any(value.label.startswith("cat#") for value in found.dag.values)  # no copies
    assert traffic(found.graph).bytes < traffic(dry_run(graph, STOCK, CPU).graph).bytes


def test_what_eager_lays_out_by_channels_is_written_for_its_norms():
    """Behind a patch embedding eager's strides run along the tokens, through the whole residual
    stream: with them norms would be split in two, and the plan would move more than stock.
    """

    def tower(x, patches, places, weight):
        x = torch.conv1d(x, patches).transpose(1, 2) + places
        for _ in range(3):
            x = x + torch.layer_norm(x, (768,)) @ weight
        return torch.layer_norm(x, (768,))

    shapes = (1, 80, 1500), (768, 80, 1), (1500, 768), (768, 768)
    graph = captured(tower, shapes, DEVICES["h200"])
    policies = PLAN, tm.Policy("traffic"), STOCK
    plan, local, stock = (traffic(dry_run(graph, p, DEVICES["h200"]).graph) for p in policies)
    assert plan.kernels <= stock.kernels
    assert plan.bytes < local.bytes < stock.bytes


def chain_inputs():
    torch.manual_seed(0)
    x, weight = torch.randn(512, 256), torch.randn(256, 256) / 16
    return x.bfloat16(), weight.bfloat16()


def branching(x, weight):
    y, residual = residual_chain(x, weight)
    pair = torch.cond(y.sum() > 0, lambda y: (y + 1, y * y), lambda y: (y - 1, y * 3), (y,))
    return *pair, residual


def planned_like_eager(function, inputs, caplog, **options):
    with caplog.at_level(logging.INFO, "torch_materialize"):
        compiled = torch.compile(function, options={**tm.options("plan"), **options})
        got = compiled(*inputs)
    assert "tensors materialized" in caplog.text
    torch.testing.assert_close(got, function(*inputs), rtol=5e-2, atol=5e-2)


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [{"cpp_wrapper": True}, {"max_autotune": True}, {"graph_partition": True}],
)
@pytest.mark.full
def test_planned_with_other_options(options, caplog):
    planned_like_eager(residual_chain, chain_inputs(), caplog, **options)


@torch.no_grad()
@torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True)
@pytest.mark.full
def test_unbacked_sizes_are_left_to_stock_tensor_by_tensor(caplog):
    def unbacked(mask):
        y = mask[mask > 0]
        z = y * 2 + y.sin()
        return z.cos(), z + 1, z.sum()

    def mixed(x, weight, mask):
        return *residual_chain(x, weight), *unbacked(mask)

    planned_like_eager(mixed, (*chain_inputs(), torch.randn(40)), caplog)
    assert code(unbacked, "plan", torch.randn(40)) == code(unbacked, "stock", torch.randn(40))


@torch.no_grad()
@pytest.mark.full
def test_subgraphs_are_stocks_and_what_is_around_them_is_planned(caplog):
    planned_like_eager(branching, chain_inputs(), caplog)

    def heavy_branches(x):
        # By its count of reads stock materializes the sum in a branch.
        def many(x):
            total = x + x.roll(1, 0) + x.roll(2, 0) + x.roll(3, 0) + x.roll(4, 0)
            return total * 2, total + 1

        return torch.cond(x.sum() > 0, many, lambda x: (x - 1, x * 3), (x,))

    x = torch.randn(64, 64)
    assert code(heavy_branches, "plan", x) == code(heavy_branches, "stock", x)


@torch.no_grad()
@pytest.mark.full
def test_subgraphs_of_a_planned_graph_are_lowered_by_stocks_rules(monkeypatch):
    seen = []
    upstream = graph_module.SubgraphLowering.run_node

    def run_node(self, node):
        seen.append(config.realize_reads_threshold)
        return upstream(self, node)

    monkeypatch.setattr(graph_module.SubgraphLowering, "run_node", run_node)
    torch.compile(branching, options=tm.options("plan"))(*chain_inputs())
    assert set(seen) == {config.realize_reads_threshold}


@torch.no_grad()
@pytest.mark.full
def test_ahead_of_time_compilation_is_planned(caplog):
    class Chain(nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.weight = nn.Parameter(weight)

        def forward(self, x):
            return residual_chain(x, self.weight)

    x, weight = chain_inputs()
    model = Chain(weight).eval()
    rows = torch.export.Dim("rows", min=8, max=4096)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: rows},))
    with caplog.at_level(logging.INFO, "torch_materialize"), tm.policy("plan"):
        package = torch._inductor.aoti_compile_and_package(exported)
    assert "tensors materialized" in caplog.text
    loaded = torch._inductor.aoti_load_package(package)
    torch.testing.assert_close(loaded(x[:100]), model(x[:100]), rtol=5e-2, atol=5e-2)


@torch.no_grad()
def test_options_mixed_by_hand_hide_no_cast_for_good():
    """On torch 2.11 and 2.12 whoever replaces our joint pass must not keep our identity."""

    class Theirs(CustomGraphPass):
        def __call__(self, graph):
            pass

        def uuid(self):
            return "theirs"

    def casts(x):
        return (x.float() * 2).bfloat16().float() + 1

    options = {**tm.options("plan"), "joint_custom_post_pass": Theirs()}
    x = torch.randn(64, 64).bfloat16()
    _, (text,) = run_and_get_code(torch.compile(casts, options=options), x)
    assert "torch_materialize" not in text


@torch.no_grad()
@pytest.mark.full
def test_planning_leaves_no_trace_in_a_compile():
    from torch._dynamo.utils import counters
    from torch._inductor import metrics

    decoder, x = decoder_case()

    def traces(policy):
        torch._dynamo.reset()
        counters.clear()
        metrics.reset()
        compiled = torch.compile(decoder, dynamic=True, options=tm.options(policy))
        compiled(x)
        compiled(x[:100])
        return counters["stats"]["unique_graphs"], counters["inductor"]["extern_calls"]

    assert traces("plan") == traces("stock")
