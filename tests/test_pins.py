"""Pins: what a model keeps or inlines wins over every policy, or is reported."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._inductor import config
from torch._inductor.utils import run_and_get_code
from torch.fx.experimental.proxy_tensor import make_fx

import torch_materialize as tm
from test_planner import NARROW, WIDE, Builder, residual_chain
from tiers import but
from torch_materialize.core.dag import Kind
from torch_materialize.core.devices import DEVICES
from torch_materialize.core.planner import Limits, plan
from torch_materialize.core.policy import STOCK
from torch_materialize.errors import Mismatch, UnsupportedTorchError
from torch_materialize.inductor.lower import pins
from torch_materialize.inductor.lower.trial import trial
from torch_materialize.inductor.offline import capture as capturing
from torch_materialize.inductor.offline.dry_run import dry_run
from torch_materialize.models.decoder import Decoder

e2e = pytest.mark.e2e
POLICIES = [None, "stock", "traffic", "plan"]


@pytest.fixture(autouse=True)
def fresh(dynamo):
    """Each test starts without compiled code."""


def compiled(function, policy=None, **how):
    if policy is not None:
        how["options"] = tm.options(policy)
    return torch.compile(function, fullgraph=True, **how)


def buffers(function, policy, *inputs) -> int:
    """Buffers that the compiled code allocates; the answers are eager's."""
    got, (code,) = run_and_get_code(compiled(function, policy), *inputs)
    torch.testing.assert_close(got, function(*inputs))
    return code.count("= empty_strided_cpu(")


def warned(caplog) -> list[str]:
    ours = [r for r in caplog.records if r.name == "torch_materialize"]
    return [r.getMessage() for r in ours if r.levelno == logging.WARNING]


def inputs(rows: int = 64):
    torch.manual_seed(0)
    return torch.randn(rows, 32), torch.randn(rows, 32)


WEIGHT = torch.ones(32, 32) / 32


def two_readers(x):
    """Read by two kernels: a reduction over rows and a transposed copy."""
    return x.sin().sum(-1), x.t().cos().contiguous()


def many_reads(a, b):
    """Six reads: stock writes the result for its two readers because of their number."""
    return a + b + a.roll(1, 0) + b.roll(1, 0) + a.roll(2, 0) + b.roll(2, 0)


# The planner alone.


def test_a_plan_never_stores_what_is_pinned_as_inlined():
    dag, _, residuals = residual_chain(3)
    assert residuals[0] in plan(dag, Limits()).store
    pinned = type(dag)(dag.values, dag.kernels, never=frozenset(residuals))
    found = plan(pinned, Limits())
    assert found.store.isdisjoint(residuals)
    assert found.predicted > plan(dag, Limits()).predicted
    assert found.bound <= found.predicted + 1e-6


def test_what_is_kept_stays_though_it_costs():
    build = Builder()
    x = build.value(Kind.SOURCE, NARROW)
    kept = build.value(Kind.POINTWISE, WIDE, x)
    build.kernel(kept)
    for _ in range(2):
        build.kernel(build.value(Kind.POINTWISE, NARROW, kept, required=True))
    dag = build.dag()
    assert kept not in plan(dag, Limits()).homes, "reading the narrow source is cheaper"
    held = dag.with_forced(frozenset({dag.values[kept].node}))
    found = plan(held, Limits())
    assert found.homes[kept] == 0
    assert found.predicted == dag.measured
    assert held.with_forced(frozenset()).forced == {kept}, "what is known stays known"


def test_a_required_value_is_written_even_if_pinned_as_inlined():
    build = Builder()
    x = build.value(Kind.SOURCE, NARROW)
    out = build.value(Kind.POINTWISE, NARROW, x, required=True)
    build.kernel(out)
    dag = build.dag()
    found = plan(type(dag)(dag.values, dag.kernels, never=frozenset({out})), Limits())
    assert found.homes == {out: 0}


# Without a compiler.


def test_eager_returns_the_tensor_itself():
    x = torch.ones(3, requires_grad=True)
    assert tm.keep(x) is x
    assert tm.inline(x) is x


@pytest.mark.full
def test_import_stays_free_of_torch_until_the_first_pin():
    code = (
        "import sys, torch_materialize as tm\n"
        "assert 'torch' not in sys.modules\n"
        "tm.keep\n"
        "assert 'torch' in sys.modules and 'torch._inductor.lowering' not in sys.modules\n"
        "try:\n    tm.kep\nexcept AttributeError as error:\n    assert 'kep' in str(error)\n"
        "else:\n    raise AssertionError\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Real compiles.


@e2e
@pytest.mark.parametrize("policy", but(["plan"], POLICIES))
def test_a_kept_tensor_is_a_buffer(policy):
    def plain(a, b):
        return two_readers(a * 2 + b)

    def pinned(a, b):
        return two_readers(tm.keep(a * 2 + b))

    assert buffers(pinned, policy, *inputs()) == 3
    if policy in (None, "stock"):
        assert buffers(plain, policy, *inputs()) == 2


@e2e
@pytest.mark.parametrize("policy", but(["plan"], POLICIES))
def test_an_inlined_tensor_is_no_buffer(policy, caplog):
    def plain(a, b):
        return two_readers(many_reads(a, b))

    def pinned(a, b):
        return two_readers(tm.inline(many_reads(a, b)))

    assert buffers(plain, policy, *inputs()) == 3
    assert buffers(pinned, policy, *inputs()) == 2
    assert not warned(caplog)


@e2e
def test_a_count_over_the_limit_of_reads_is_taken_back():
    """More than 8 reads: Inductor writes such a tensor before it lowers the pin."""

    def pinned(a, b):
        s = many_reads(a, b) + a.roll(3, 0) + b.roll(3, 0) + a.roll(4, 0)
        s = tm.inline(s)
        return s.sum(-1), s.t().contiguous()

    with config.patch(realize_acc_reads_threshold=8):
        assert buffers(pinned, None, *inputs()) == 2


@e2e
@pytest.mark.full
@pytest.mark.parametrize("policy", POLICIES)
def test_who_reads_it_without_the_pin_recomputes_it_too(policy, caplog):
    def pinned(a, b):
        s = many_reads(a, b)
        return *two_readers(tm.inline(s)), s.exp().sum(0)

    assert buffers(pinned, policy, *inputs()) == 3
    assert not warned(caplog)


@e2e
@pytest.mark.full
def test_plan_keeps_and_inlines_on_a_planned_gpu():
    """The plan's own choice is the bf16 residual; pins turn it to the fp32 sum and back."""
    device = DEVICES["h200"]

    class Pinned(nn.Module):
        def __init__(self, pin_sum, pin_residual):
            super().__init__()
            self.pins = pin_sum, pin_residual

        def forward(self, residual, x, weight):
            for _ in range(6):
                total = self.pins[0](x.float() + residual.float())
                residual = self.pins[1](total.bfloat16())
                scale = total.square().mean(-1, keepdim=True).rsqrt()
                x = (total * scale).bfloat16() @ weight
            return x

    def written(*chosen, policy):
        mode = capturing.fake_mode()
        with mode:
            xs = [torch.empty(4096, 4096, dtype=torch.bfloat16) for _ in range(3)]
        (graph,) = capturing.capture(Pinned(*chosen), xs, {}, device, mode)
        run = dry_run(graph, policy, device).graph
        inner = [b for k in run.kernels for b in k.writes if k.kind != "extern"]
        return sorted(run.tensors[b].dtype for b in inner if run.tensors[b].bytes > 2**20)

    def free(x):
        return x

    # Six results; and in between five fp32 sums, five bf16 residuals, or some of them.
    policy = tm.Policy("plan")
    assert written(free, free, policy=policy) == ["bfloat16"] * 11
    assert written(free, tm.inline, policy=policy) == ["bfloat16"] * 6 + ["float32"]
    for each in (policy, STOCK, tm.Policy("traffic")):
        assert written(tm.keep, tm.inline, policy=each) == ["bfloat16"] * 6 + ["float32"] * 5
        assert written(tm.inline, tm.keep, policy=each) == ["bfloat16"] * 11
    # Rounded in registers, six layers in one kernel are more than Inductor lets one recompute.
    for each in (tm.Policy("plan", {"numerics": "stock"}), STOCK, tm.Policy("traffic")):
        assert written(tm.inline, tm.inline, policy=each) == ["bfloat16"] * 6


@e2e
def test_a_dry_run_knows_the_pins_and_reports_none(caplog):
    def pinned(a, b):
        return tm.keep(a + b).t().cos().contiguous(), tm.inline(a * b).sin(), tm.inline(a - b)

    mode = capturing.fake_mode()
    with mode:
        xs = [torch.empty(64, 32) for _ in range(2)]
    (graph,) = capturing.capture(pinned, xs, {}, DEVICES["cpu"], mode)
    _, dag = trial(graph)
    assert dag.nodes(dag.forced) == {"add"}
    assert "mul" in dag.nodes(dag.never)
    dry_run(graph, tm.Policy("plan"), DEVICES["cpu"])
    assert not warned(caplog)


def read_before_the_pin(a, b):
    s = many_reads(a, b)
    early = s.sigmoid().mean(0)
    return *two_readers(tm.inline(s)), early


@e2e
@config.patch(reorder_for_locality=False)
def test_traffic_does_not_write_for_who_reads_before_the_pin(caplog):
    assert buffers(read_before_the_pin, "traffic", *inputs()) == 3
    assert not warned(caplog)


def returned(a, b):
    return tm.inline(a + b)


def returned_view(a, b):
    return tm.inline(a + b).t()


def returned_beside(a, b):
    s = a + b
    return s, *two_readers(tm.inline(s))


def matmul_result(a, b):
    return tm.inline(a @ WEIGHT) + b


def matmul_argument(a, b):
    return tm.inline(a + b) @ WEIGHT


def chunk_of_matmul_argument(a, b):
    left, right = tm.inline(a + b).chunk(2, -1)
    return left @ WEIGHT[:16], right.sin()


def graph_input(a, b):
    return tm.inline(a.t()).t() + b


def reduction(a, b):
    return tm.inline(a.sum(0)) * b


def kept_and_inlined(a, b):
    return two_readers(tm.inline(tm.keep(a + b)))


def inlined_and_kept(a, b):
    return two_readers(tm.keep(tm.inline(a + b)))


def extern_argument(a, b):
    return torch.linalg.qr(tm.inline(a + b))


def large_body(a, b):
    s = a
    for _ in range(150):
        s = tm.inline(s + b)
    return two_readers(s)


def written_before_the_pin(a, b):
    t = (a * b).sigmoid()
    s = many_reads(t, a)
    q = torch.index_put(t, (torch.arange(5),), torch.zeros(32))
    return *two_readers(tm.inline(s)), q


def written_after_the_pin(a, b):
    t = (a * b).sigmoid()
    s = tm.inline(many_reads(t, a))
    q = torch.index_put(t, (torch.arange(5),), torch.zeros(32))
    return *two_readers(s), q


REASONS = {
    returned: "the graph returns it",
    returned_view: "the graph returns it",
    returned_beside: "the graph returns it",
    matmul_result: "the result of aten.mm",
    matmul_argument: "aten.mm.default reads it from memory",
    chunk_of_matmul_argument: "aten.mm.default reads it from memory",
    graph_input: "an input of the graph",
    reduction: "the result of a reduction",
    kept_and_inlined: "pinned by keep",
    inlined_and_kept: "pinned by keep",
    extern_argument: "linalg_qr.default reads it from memory",
    large_body: "too large to be recomputed",
}
STOCK_REASONS = {
    read_before_the_pin: "sigmoid.default reads it before the pin",
    written_before_the_pin: "it is computed from, has been written into",
    written_after_the_pin: "index_put_.default writes into what it is computed from",
}
CASES = [(f, policy) for f in REASONS for policy in (None, "plan")]
CASES += [(f, None) for f in STOCK_REASONS]
QUICK = [(next(iter(REASONS)), "plan"), CASES[-1]]


@e2e
@config.patch(reorder_for_locality=False)  # so that before and after are as written here
@pytest.mark.parametrize(
    ("function", "policy"), but(QUICK, CASES), ids=lambda x: getattr(x, "__name__", x)
)
def test_what_cannot_be_honoured_is_reported_once(function, policy, caplog):
    a, b = inputs()
    run = compiled(function, policy)
    torch.testing.assert_close(run(a, b), function(a, b), rtol=1e-4, atol=1e-4)
    torch._dynamo.reset()
    compiled(function, policy)(a, b)
    (message,) = warned(caplog)
    source = Path(__file__).read_text().splitlines()
    (place,) = [word for word in message.split() if word.startswith(__file__)]
    assert "tm.inline(" in source[int(place.rpartition(":")[2]) - 1]
    assert {**REASONS, **STOCK_REASONS}[function] in message


@e2e
def test_what_is_in_memory_is_kept_without_a_word(caplog):
    def pinned(a, b):
        return tm.keep(a) + tm.keep(a @ WEIGHT) + tm.keep(b.sum(0)) + tm.keep(torch.ones(32))

    a, b = inputs()
    torch.testing.assert_close(compiled(pinned, "plan")(a, b), pinned(a, b))
    assert not warned(caplog)


@e2e
def test_a_realization_that_nobody_reads_is_no_broken_pin(caplog):
    """Before its input is written into, Inductor realizes the tensor; nobody reads that."""

    def pinned(a, b):
        out = tm.inline(a * 2) + b
        a.copy_(out)
        return out.sin()

    a, b = inputs()
    want_a = a.clone()
    want = pinned(want_a, b)
    torch.testing.assert_close(compiled(pinned)(a, b), want)
    torch.testing.assert_close(a, want_a)
    assert not warned(caplog)


@e2e
@pytest.mark.full
@pytest.mark.parametrize("pin", ["keep", "inline"])
def test_what_upstream_writes_in_place_is_a_tensor_of_its_own(pin):
    """Re-inplacing takes the pin's argument and its result for two tensors."""
    pinned, rows = getattr(tm, pin), torch.arange(5)

    def result_is_written(a, b):
        s = a + b
        p = pinned(s)
        return torch.index_put(p, (rows,), torch.zeros(32)), s * 2

    def argument_is_written(a, b):
        s = a + b
        p = pinned(s)
        return torch.index_put(s, (rows,), torch.zeros(32)), p * 2

    def input_is_written(a, b):
        p = pinned(a) + b
        a.mul_(2)
        return p + pinned(a)

    for function in (result_is_written, argument_is_written, input_is_written):
        a, b = inputs()
        want = function(a.clone(), b)
        torch.testing.assert_close(compiled(function)(a, b), want)


@e2e
@pytest.mark.parametrize("policy", but(["plan"], [None, "traffic", "plan"]))
@pytest.mark.parametrize("dynamic", but([True], [False, True]))
def test_training(policy, dynamic):
    def loss(a, b):
        s = tm.keep(a * b + a)
        t = tm.inline(nn.functional.gelu(s))
        return (t.sin().sum(-1).square().sum() + (t * b).sum()) / 100

    run = compiled(loss, policy, dynamic=dynamic)
    for rows in (64, 40):
        mine = [x.requires_grad_() for x in inputs(rows)]
        theirs = [x.detach().clone().requires_grad_() for x in mine]
        got, want = run(*mine), loss(*theirs)
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(
            torch.autograd.grad(got, mine), torch.autograd.grad(want, theirs), rtol=1e-4, atol=1e-5
        )


@e2e
@pytest.mark.full
def test_saved_for_the_backward_is_reported(caplog):
    def loss(a, b):
        return (tm.inline(a * b).sin() * b).sum()

    a, b = (x.requires_grad_() for x in inputs())
    compiled(loss)(a, b).backward()
    assert "to its caller or to the backward" in caplog.text


@e2e
def test_one_trace_though_the_names_are_resolved_inside_it():
    def pinned(a, b):
        return two_readers(tm.keep(a + b))

    vars(tm).pop("keep", None)
    torch._dynamo.utils.counters.clear()
    run = compiled(pinned)
    for _ in range(2):
        run(*inputs())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


class Model(nn.Module):
    def forward(self, a, b):
        s = tm.keep(a * 2 + b)
        return tm.inline(s.exp()), two_readers(s)


@e2e
@pytest.mark.parametrize("strict", but([False], [True, False]))
def test_export(strict):
    a, b = inputs()
    program = torch.export.export(Model(), (a, b), strict=strict)
    assert "torch_materialize.keep" in program.graph_module.code
    torch.testing.assert_close(program.module()(a, b), Model()(a, b))
    torch.testing.assert_close(compiled(program.module())(a, b), Model()(a, b))


def test_make_fx_and_aot_autograd_see_pins():
    from functorch.compile import aot_function

    a, b = inputs()
    assert "torch_materialize.inline" in make_fx(Model())(a, b).code
    seen = []

    def look(module, _inputs):
        seen.append(module.code)
        return module

    aot_function(lambda a, b: tm.keep(a + b).sin(), look)(a.requires_grad_(), b).sum().backward()
    torch.testing.assert_close(a.grad, (a + b).cos())
    assert "torch_materialize.keep" in seen[0]
    # Both of AOTAutograd's traces must see the pin, or they disagree on what is an alias.
    assert aot_function(tm.keep, look)(b) is not b


@e2e
@pytest.mark.full
def test_vmap_inside_a_compile():
    a, b = inputs()

    def pinned(a, b):
        return torch.func.vmap(lambda x, y: tm.inline(tm.keep(x + y).exp()).sum())(a, b)

    torch.testing.assert_close(compiled(pinned)(a, b), pinned(a, b))
    assert make_fx(pinned)(a, b).code.count("torch_materialize.keep") == 1


@e2e
def test_a_broken_lowering_copies_and_is_logged(monkeypatch, lenient):
    def broken(node):
        raise RuntimeError("planted")

    def pinned(a, b):
        s = a + b
        p = tm.inline(tm.keep(s))
        return torch.index_put(p, (torch.arange(5),), torch.zeros(32)), s * 2

    a, b = inputs()
    monkeypatch.setattr(pins, "is_written", broken)
    torch.testing.assert_close(compiled(pinned)(a, b), pinned(a, b))
    assert lenient.text.count("planted") == 1


@e2e
@pytest.mark.usefixtures("unlowered_pins")
def test_an_unknown_torch_copies_and_is_logged(monkeypatch, caplog):
    mismatch = Mismatch("torch._inductor.lowering:register_lowering", "one", "another")

    def unsupported(feature):
        raise UnsupportedTorchError([mismatch], "9.9")

    monkeypatch.setattr(pins.seams, "require", unsupported)

    def pinned(a, b):
        return two_readers(tm.inline(tm.keep(a + b)))

    a, b = inputs()
    torch.testing.assert_close(compiled(pinned)(a, b), pinned(a, b))
    assert "register_lowering" in caplog.text


@e2e
@torch.no_grad()
@pytest.mark.full
def test_a_decoder_with_pins_under_every_policy():
    torch.manual_seed(0)
    decoder = Decoder(2, 64, 128, "vllm", random_norms=True).eval()

    class Wrapped(nn.Module):
        def forward(self, x):
            return tm.keep(decoder(tm.inline(x * 2)) + 1) * 2

    x = torch.randn(32, 64).bfloat16()
    want = compiled(Wrapped())(x)
    for policy in ("traffic", "plan"):
        torch._dynamo.reset()
        torch.testing.assert_close(compiled(Wrapped(), policy)(x), want, rtol=2e-2, atol=2e-2)
