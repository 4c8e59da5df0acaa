"""The promises about rounding: stock's result, what is stored is what everyone uses, eager's."""

from __future__ import annotations

import functools
import logging
import re
from unittest import mock

import pytest
import torch
from torch._inductor import config
from torch._inductor.utils import run_and_get_code

import torch_materialize as tm
from tiers import but
from torch_materialize.core.devices import CPU
from torch_materialize.core.policy import STOCK, parse
from torch_materialize.core.traffic import traffic
from torch_materialize.inductor.fx import decision
from torch_materialize.inductor.fx.rounding import across, to_round
from torch_materialize.inductor.hooks import graph_lowering
from torch_materialize.inductor.offline import capture as capturing
from torch_materialize.inductor.offline.dry_run import dry_run
from torch_materialize.models.decoder import Decoder
from torch_materialize.models.language import CUTS, Language, cut, greedy

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("dynamo")]
BF16 = torch.bfloat16


@functools.cache
def opaque_matmul():
    """A cheap stand-in that no compiler looks into."""
    name = "torch_materialize_numerics_tests::matmul"

    def multiply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a[:, :1] * b[:1, :]).contiguous()

    operator = torch.library.custom_op(name, multiply, mutates_args=())
    operator.register_fake(lambda a, b: a.new_empty(a.shape[0], b.shape[1]))
    return torch.ops.torch_materialize_numerics_tests.matmul.default


def decoder(*, random_norms: bool) -> tuple[Decoder, torch.Tensor]:
    torch.manual_seed(0)
    model = Decoder(2, 256, None, "vllm", opaque_matmul(), random_norms=random_norms).eval()
    return model, torch.randn(512, 256, dtype=BF16)


@torch.no_grad()
def answer(model, x, policy):
    torch._dynamo.reset()
    return torch.compile(model, options=tm.options(policy))(x)


def share(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one == other).double().mean().item()


def moved(model, x, policy) -> int:
    mode = capturing.fake_mode()
    wanted = parse(policy)
    graphs = capturing.capture_for([wanted], model, (mode.from_tensor(x),), {}, CPU, mode)
    return sum(traffic(dry_run(g, wanted, CPU).graph).bytes for g in graphs[wanted])


# numerics="eager"


@torch.no_grad()
def test_eager_rounds_where_eager_rounds():
    """With random norm weights Inductor leaves out a rounding inside of each norm, too."""
    model, x = decoder(random_norms=True)
    want = model(x)
    assert share(answer(model, x, "stock"), want) < 0.9
    assert share(answer(model, x, "plan:numerics=eager"), want) >= 0.9999


@pytest.mark.full
def test_eager_costs_no_bytes():
    model, x = decoder(random_norms=True)
    assert moved(model, x, "plan:numerics=eager") == moved(model, x, "plan")
    assert moved(model, x, "plan") < moved(model, x, "stock")


@torch.no_grad()
@pytest.mark.full
def test_eager_rounds_a_product_before_it_adds():
    """Inductor makes one `addmm` of it, whose bf16 sum is of the product in fp32."""
    torch.manual_seed(0)
    x, weight, residual = (torch.randn(64, 64, dtype=BF16) for _ in range(3))
    bias = torch.randn(64, dtype=BF16)

    def block(x, weight, bias, residual):
        added = residual + torch.nn.functional.linear(x, weight)
        return added, torch.nn.functional.linear(added, weight, bias).relu()

    inputs = x, weight, bias, residual
    want = block(*inputs)
    assert not torch.equal(answer_of(block, "stock", *inputs)[0], want[0])
    assert all(map(torch.equal, answer_of(block, "plan:numerics=eager", *inputs), want))
    # What is planned offline is that, too: the sum has a kernel, and what the program wrote as
    # one stays one.
    ours = moved_many(block, inputs, "plan:numerics=eager")
    assert ours == moved_many(block, inputs, "plan") + 3 * residual.nbytes


@torch.no_grad()
def test_eager_rounds_the_square_in_a_power():
    """GPT-2's GELU has a cube, which Inductor multiplies in fp32."""
    torch.manual_seed(0)
    x = torch.randn(64, 64, dtype=BF16)

    def powers(x):
        return (x**3 + 0.5) * x, torch.pow(x, 3.0), x**-2, x**2, x.half() ** 3

    want = powers(x)
    assert not torch.equal(answer_of(powers, "stock", x)[1], want[1])
    assert all(map(torch.equal, answer_of(powers, "plan:numerics=eager", x), want))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [BF16, torch.float16])
def test_eager_takes_numbers_with_the_digits_that_eager_takes(dtype):
    """On a CPU a sum's number is rounded, and a product's is not."""
    torch.manual_seed(0)
    x = torch.randn(64, 64).to(dtype)

    def numbers(x):
        chain = ((x + 0.1) * 0.3 - 0.7) / 1.7
        return (
            chain,
            1.1 - x,
            x.abs() ** 1.7,
            x % 0.3,
            (x > 0.3) | (x <= -0.7),
            x / 3,
            x + 2,
            x + 257,
            x % 1001,
            x - 2049,
            x.float() + 0.1,
        )

    want = numbers(x)
    assert not all(map(torch.equal, answer_of(numbers, "stock", x), want))
    assert all(map(torch.equal, answer_of(numbers, "plan:numerics=eager", x), want))


# numerics="stock"


@torch.no_grad()
@pytest.mark.parametrize("random_norms", but([False], [False, True]))
def test_stock_leaves_stocks_result_to_the_last_bit(random_norms):
    model, x = decoder(random_norms=random_norms)
    assert torch.equal(answer(model, x, "plan:numerics=stock"), answer(model, x, "stock"))


@torch.no_grad()
@pytest.mark.full
def test_stock_may_still_gain():
    """A norm and a gate in fp32: nothing is rounded or summed, so the needless buffer may go."""

    def gated(x, mean, scale, shift, extra):
        normed = (x - mean) * scale + shift + extra
        return normed.relu() * 2, normed.flip(0) + 1

    inputs = torch.randn(4096, 64), *(torch.randn(64) for _ in range(4))
    ours = moved_many(gated, inputs, "plan:numerics=stock")
    assert ours == moved_many(gated, inputs, "plan") < moved_many(gated, inputs, "stock")
    got, want = answer_of(gated, "plan:numerics=stock", *inputs), answer_of(gated, "stock", *inputs)
    assert all(map(torch.equal, got, want))


def moved_many(function, inputs, policy) -> int:
    mode = capturing.fake_mode()
    wanted = parse(policy)
    fakes = tuple(mode.from_tensor(x) for x in inputs)
    graphs = capturing.capture_for([wanted], function, fakes, {}, CPU, mode)
    return sum(traffic(dry_run(g, wanted, CPU).graph).bytes for g in graphs[wanted])


# numerics="stored"


def two_users(x, y):
    """One kernel: the sum is written, and used where it is written."""
    total = x + y
    return total, total.float() * 3


@torch.no_grad()
def test_what_is_written_is_what_its_own_kernel_goes_on_with():
    torch.manual_seed(0)
    x, y = torch.randn(64, 256, dtype=BF16), torch.randn(64, 256, dtype=BF16)
    total, result = answer_of(two_users, "plan", x, y)
    assert torch.equal(result, total.float() * 3)
    # Stock's kernel goes on with digits that it did not write.
    total, result = answer_of(two_users, "stock", x, y)
    assert not torch.equal(result, total.float() * 3)


def answer_of(function, policy, *inputs):
    torch._dynamo.reset()
    return torch.compile(function, options=tm.options(policy))(*inputs)


def however_cut(policy, device="cpu"):
    """Eager's logits; for each way of cutting a model its logits, and its greedy tokens."""
    torch.manual_seed(0)
    with torch.device(device):
        model = Language(layers=2, hidden=64, heads=2, vocabulary=200)
        ids = torch.arange(24) * 7 % 200
    prompt, steps, window = [3, 1, 4], 24, 24
    with torch.no_grad():
        eager = model(ids)
    answers, said = {}, {}
    for where in CUTS:
        torch._dynamo.reset()
        compiled = cut(model.copy(), where, options=tm.options(policy))
        with torch.no_grad():
            answers[where] = compiled(ids)
        said[where], _ = greedy(compiled, prompt, steps, window, device)
    return eager, answers, said


@pytest.mark.full
@pytest.mark.parametrize("policy", ["plan", "plan:numerics=eager"])
def test_however_a_model_is_cut_it_answers_the_same(policy):
    eager, answers, said = however_cut(policy)
    for where in CUTS:
        assert torch.equal(answers[where], answers["whole"]), where
        assert said[where] == said["whole"], where
    if policy == "plan:numerics=eager":
        assert torch.equal(answers["whole"], eager)


@pytest.mark.full
@pytest.mark.parametrize(("policy", "same"), [("stock", False), ("plan", True)])
def test_cuts_are_the_same_under_a_policy_and_not_to_stock(policy, same):
    """With stock: what the test before this one would not notice if it compared nothing."""
    torch.manual_seed(0)
    model = Language(layers=1, hidden=64, heads=2, vocabulary=200)
    ids = torch.arange(24) * 7 % 200
    answers = []
    for where in ("whole", "attention"):
        torch._dynamo.reset()
        with torch.no_grad():
            answers.append(cut(model.copy(), where, options=tm.options(policy))(ids))
    assert torch.equal(*answers) == same


@pytest.mark.full
def test_what_the_forward_saves_is_what_it_used():
    """The backward reads the activation in bf16; the forward must not have used more digits."""
    torch.manual_seed(0)
    y, weight = torch.randn(64, 256, dtype=BF16), torch.randn(256, 256, dtype=BF16) / 16
    x = torch.randn(64, 256, dtype=BF16)

    def forward(x, weight):
        active = (x @ weight * y).relu()
        return active.float() * 3, active @ weight

    def trained(run):
        inputs = [t.clone().requires_grad_() for t in (x, weight)]
        wide, narrow = run(*inputs)
        return wide.detach(), torch.autograd.grad(wide.sum() + narrow.float().sum(), inputs)

    want, gradients = trained(forward)
    ours, mine = trained(lambda *inputs: answer_of(forward, "plan", *inputs))
    stocks, _ = trained(lambda *inputs: answer_of(forward, "stock", *inputs))
    assert torch.equal(ours, want) and not torch.equal(stocks, want)
    for one, other in zip(mine, gradients, strict=True):
        assert (one - other).float().norm() < 1e-2 * other.float().norm()


@torch.no_grad()
def test_an_exact_value_is_not_rounded_again():
    """Copies, slices and negations of what is in memory have no digits to lose."""

    def copies(x, y):
        chosen = torch.where(x > 0, x, -y)
        return chosen, chosen.flip(0).float().sum(-1)

    x, y = torch.randn(64, 64, dtype=BF16), torch.randn(64, 64, dtype=BF16)
    assert code(copies, "plan", x, y) == code(copies, "stock", x, y)


@torch.no_grad()
@pytest.mark.full
def test_what_is_only_read_from_memory_is_not_rounded_twice():
    """A residual that is written for the next layer alone is rounded by that."""
    model, x = decoder(random_norms=True)
    capture = Searches()
    with capture:
        answer(model, x, "plan")
    (found,) = capture.found
    assert found.store  # the residuals, narrow
    assert not found.rounded & found.store
    # The first is the input, widened and narrowed again.
    assert not found.rounded


class WrittenOut(torch.nn.Module):
    """Attention as operators, which Inductor's patterns replace: its inputs are views with metas of
    their own there."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (torch.nn.Linear(64, 64) for _ in range(4))

    def forward(self, x, bias):
        heads = (64, 32, 4, 16)
        q, k, v = (one(x).view(heads).transpose(1, 2) for one in (self.q, self.k, self.v))
        scores = (q @ k.transpose(-1, -2) / 4 + bias.unsqueeze(0)).softmax(-1)
        active = (scores @ v).permute(0, 2, 1, 3).contiguous().view(64, 32, 64)
        return x + self.out(active).relu()


class Turned(torch.nn.Module):
    """A product whose copy is computed before another product, and used behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(64, 64), torch.nn.Linear(64, 32)

    def forward(self, x):
        copy = self.first(x).transpose(0, 1).reshape(x.shape[0] * 64)
        return copy * self.second(x).sum()


@pytest.mark.parametrize(
    "model, shapes",
    [(WrittenOut, [(64, 32, 64), (4, 32, 32)]), (Turned, [(32, 64)])],
    ids=["its view", "its copy"],
)
def test_what_an_extern_kernel_left_is_not_rounded_once_more(model, shapes):
    """Rounding it would take a kernel of its own: in a CLAP's forward, for 10% more bytes."""
    mode = capturing.fake_mode()
    inputs = tuple(mode.from_tensor(torch.randn(shape, dtype=BF16)) for shape in shapes)
    (graph,) = capturing.capture(model().to(BF16).eval(), inputs, {}, CPU, mode)
    dag = dry_run(graph, STOCK, CPU).dag
    crossing = across(graph.module, dag)
    assert crossing and not any("permute" in name for name in crossing)  # no views: their roots
    assert not to_round(graph.module, dag)


class Searches:
    """Keeps what each search of a compile has found."""

    def __init__(self) -> None:
        self.found = []

    def __enter__(self):
        search = graph_lowering.search

        def kept(*args, **kwargs):
            self.found.append(search(*args, **kwargs))
            return self.found[-1]

        self._patch = mock.patch.object(graph_lowering, "search", kept)
        return self._patch.__enter__()

    def __exit__(self, *exc):
        self._patch.__exit__(*exc)


def code(function, policy, *inputs) -> str:
    torch._dynamo.reset()
    _, texts = run_and_get_code(torch.compile(function, options=tm.options(policy)), *inputs)
    return "\n".join(line for text in texts for line in text.splitlines() if "AOT ID" not in line)


@torch.no_grad()
def test_a_rounding_that_fails_half_way_leaves_stocks_code(monkeypatch, caplog):
    x, y = torch.randn(64, 256, dtype=BF16), torch.randn(64, 256, dtype=BF16)
    want = code(two_users, "stock", x, y)
    assert code(two_users, "plan", x, y) != want
    upstream = decision.apply_rounding

    def half_way(module, names):
        upstream(module, names)
        raise RuntimeError("planted")

    monkeypatch.setenv("TORCH_MATERIALIZE_STRICT", "0")
    monkeypatch.setattr(decision, "apply_rounding", half_way)
    with caplog.at_level(logging.WARNING, "torch_materialize"):
        assert code(two_users, "plan", x, y) == want


def test_each_promise_has_keys_of_its_own():
    prints = {parse(f"plan:numerics={n}").fingerprint("x") for n in ("stored", "stock", "eager")}
    assert len(prints) == 3
    assert parse("plan:numerics=stored") == parse("plan")


def test_a_misspelt_promise_is_one_clear_error():
    with pytest.raises(tm.UnknownPolicyError, match=r"value of numerics 'eagre'.*'eager'"):
        tm.options("plan", numerics="eagre")
    with pytest.raises(tm.UnknownPolicyError, match="takes no settings"):
        tm.options("traffic", numerics="eager")


def test_upstreams_switch_is_set_for_one_compile_alone():
    before = config.emulate_precision_casts
    with tm.policy("plan", numerics="eager"):
        torch.compile(lambda x: x.sin() + 1)(torch.randn(8, dtype=BF16))
    assert config.emulate_precision_casts == before
    assert tm.options("plan", numerics="eager")["emulate_precision_casts"] is True
    assert "emulate_precision_casts" not in tm.options("plan")


@torch.no_grad()
@pytest.mark.full
def test_a_promise_is_kept_by_stock_too_where_nothing_is_gained():
    """With nothing to gain in bytes, "stored" still rounds, and "stock" leaves stock's code."""
    x, y = torch.randn(64, 256, dtype=BF16), torch.randn(64, 256, dtype=BF16)
    assert moved_many(two_users, (x, y), "plan") == moved_many(two_users, (x, y), str(STOCK))
    assert code(two_users, "plan:numerics=stock", x, y) == code(two_users, "stock", x, y)
    assert code(two_users, "plan", x, y) != code(two_users, "stock", x, y)


@torch.no_grad()
def test_eager_does_not_round_what_has_no_digits_to_lose():
    """The first residual is the input, widened and narrowed: upstream's switch rounds it, too."""
    model, x = decoder(random_norms=True)
    text = code(model, "plan:numerics=eager", x)
    kernels = text.split('extern "C"')
    assert any("convert<at::BFloat16,1,float,2>" in kernel for kernel in kernels)
    for kernel in kernels:
        widened = set(re.findall(r"auto (\w+) = at::vec::convert<float,2,at::BFloat16,1>", kernel))
        narrowed = set(re.findall(r"= at::vec::convert<at::BFloat16,1,float,2>.(\w+)", kernel))
        assert not widened & narrowed


@torch.no_grad()
def test_views_of_what_is_written_are_views_of_what_was_stored():
    def viewed(x, y):
        total = x + y
        return total, total.view(32, 2, 256).float() * 3, total.t().float() + 1

    torch.manual_seed(0)
    x, y = torch.randn(64, 256, dtype=BF16), torch.randn(64, 256, dtype=BF16)
    total, tripled, turned = answer_of(viewed, "plan", x, y)
    assert torch.equal(tripled, total.view(32, 2, 256).float() * 3)
    assert torch.equal(turned, total.t().float() + 1)


def test_a_cast_that_a_decision_keeps_rounds_whatever_else_it_rounds():
    """On torch 2.11 and 2.12 the C++ backend forgets casts; a Gemma's pieces rounded otherwise."""
    assert decision.rounds_casts(decision.Decision(casts=frozenset({"norm"})), "stored")
    assert not decision.rounds_casts(decision.NO_CHANGE, "stored")
