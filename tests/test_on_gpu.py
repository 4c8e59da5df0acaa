"""What only a GPU can show: real Triton kernels under `plan`, where one is at hand.

The planner's own tests plan for a GPU that is not there; these compile and run on one.
"""

from __future__ import annotations

import logging
import re
from functools import partial

import pytest
import torch
from torch._inductor.utils import run_and_get_code

import torch_materialize as tm
from test_compile import Block, mutation, softmax_and_norms, views_and_slices
from test_numerics import however_cut, share
from test_plan import branching, residual_chain
from test_wide import chain_with_reuse, foreach, one_sum, pairs
from torch_materialize.core.devices import DEVICES, identify
from torch_materialize.core.limits import Limits
from torch_materialize.core.policy import STOCK
from torch_materialize.core.traffic import traffic
from torch_materialize.inductor.offline import capture as capturing
from torch_materialize.inductor.offline.dry_run import dry_run
from torch_materialize.models.decoder import Decoder
from torch_materialize.models.language import CUTS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("dynamo"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
POLICIES = ("traffic", "plan", "plan:numerics=stock", "plan:numerics=eager")
BF16 = torch.bfloat16
randn = partial(torch.randn, device="cuda")


def compiled(function, policy, **options):
    torch._dynamo.reset()
    return torch.compile(function, options={**tm.options(policy), **options})


def decoder(hidden=1024, tokens=2048):
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = Decoder(2, hidden, hidden, "vllm", random_norms=True).eval()
        return model, torch.randn(tokens, hidden, dtype=BF16)


def near(got, want):
    """Within what bf16 leaves of a few matmuls and norms."""
    for one, other in zip(got, want, strict=True):
        off = (one.double() - other.double()).norm() / other.double().norm()
        assert off < 2e-2, off


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("function", [softmax_and_norms, views_and_slices, mutation])
def test_function_as_eager(function, policy):
    x = randn(256, 384)
    want = function(x.clone())
    got = compiled(function, policy)(x.clone())
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("policy", ["plan", "plan:numerics=eager", "tune"])
def test_forward_and_backward_as_eager(policy):
    torch.manual_seed(0)
    block = Block().cuda()
    x = randn(8, 64, 64, requires_grad=True)
    want = block(x)
    wanted = torch.autograd.grad(want.square().sum(), [x, *block.parameters()])
    got = compiled(block, policy)(x)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
    grads = torch.autograd.grad(got.square().sum(), [x, *block.parameters()])
    torch.testing.assert_close(grads, wanted, rtol=1e-2, atol=1e-2)


@torch.no_grad()
def test_a_plan_is_what_runs_and_moves_what_was_planned_without_the_gpu(caplog):
    """As many kernels as a dry run says for such a GPU, and other code than stock's."""
    known = identify(torch.cuda.get_device_properties())
    if known.name not in DEVICES:
        pytest.skip(f"{torch.cuda.get_device_name()} is not in our table")
    model, x = decoder()
    _, (stocks,) = run_and_get_code(compiled(model, "stock"), x)
    with caplog.at_level(logging.INFO, "torch_materialize"):
        _, (ours,) = run_and_get_code(compiled(model, "plan"), x)
    assert ours != stocks
    assert "tensors materialized" in caplog.text
    mode = capturing.fake_mode()
    other = Decoder(2, 1024, 1024, "vllm", random_norms=True).eval()
    fake = mode.from_tensor(torch.empty(2048, 1024, dtype=BF16))
    (graph,) = capturing.capture(other, (fake,), {}, known, mode)
    planned = {
        name: dry_run(graph, policy, known).graph
        for name, policy in (("stock", STOCK), ("plan", tm.Policy("plan")))
    }
    assert traffic(planned["plan"]).bytes < traffic(planned["stock"]).bytes
    for name, code in (("stock", stocks), ("plan", ours)):
        assert len(re.findall(r"\.run\(.*stream=", code)) == traffic(planned[name]).kernels


@torch.no_grad()
def test_eager_rounds_where_eager_rounds():
    model, x = decoder()
    want = model(x)
    stock = share(compiled(model, "stock")(x), want)
    assert share(compiled(model, "plan:numerics=eager")(x), want) >= stock


@torch.no_grad()
def test_stock_leaves_stocks_result_to_the_last_bit():
    model, x = decoder()
    ours = compiled(model, "plan:numerics=stock")(x)
    assert torch.equal(ours, compiled(model, "stock")(x))


@pytest.mark.parametrize("policy", ["plan", "plan:numerics=eager"])
def test_however_a_model_is_cut_it_answers_the_same(policy):
    _, answers, said = however_cut(policy, "cuda")
    for where in CUTS:
        assert torch.equal(answers[where], answers["whole"]), where
        assert said[where] == said["whole"], where


@torch.no_grad()
@pytest.mark.parametrize("function", [foreach, one_sum, pairs])
def test_hundreds_of_tensors_run(function):
    """The local rule crashed on kernels with very many buffers."""
    inputs = [randn(64, 128) for _ in range(200)]
    got, codes = run_and_get_code(compiled(function, "plan"), *inputs)
    torch.testing.assert_close(got, function(*inputs), rtol=1e-3, atol=1e-3)
    _, stocks = run_and_get_code(compiled(function, "stock"), *inputs)
    widest = [max(map(_pointers, one)) for one in (codes, stocks)]
    assert widest[0] <= max(Limits().arguments, widest[1])


def _pointers(code):
    """The most that a kernel in ``code`` takes."""
    return max(line.count("_ptr") for line in code.splitlines() if "def triton_" in line)


@torch.no_grad()
def test_a_thousand_operations_in_a_row():
    x = torch.rand(64, 64, device="cuda")
    got = compiled(chain_with_reuse, "plan")(x)
    torch.testing.assert_close(got, chain_with_reuse(x), rtol=1e-3, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {"triton.cudagraphs": True},
        {"triton.cudagraphs": True, "graph_partition": True},
        {"max_autotune": True},
        {"cpp_wrapper": True},
    ],
    ids="+".join,
)
def test_planned_with_other_options(options, caplog):
    torch.manual_seed(0)
    x, weight = randn(2048, 1024, dtype=BF16), randn(1024, 1024, dtype=BF16) / 32
    with caplog.at_level(logging.INFO, "torch_materialize"):
        function = compiled(residual_chain, "plan", **options)
        for _ in range(3):
            got = [one.clone() for one in function(x, weight)]
    assert "tensors materialized" in caplog.text
    near(got, residual_chain(x, weight))


@torch.no_grad()
def test_branches():
    x, weight = randn(512, 256, dtype=BF16), randn(256, 256, dtype=BF16) / 16
    got = compiled(branching, "plan")(x, weight)
    near(got, branching(x, weight))


@torch.no_grad()
def test_dynamic_batch(caplog):
    model, _ = decoder(hidden=512)
    torch._dynamo.reset()
    function = torch.compile(model, options=tm.options("plan"), dynamic=True)
    with caplog.at_level(logging.INFO, "torch_materialize"):
        for tokens in (1024, 96, 4000, 2):
            x = randn(tokens, 512, dtype=BF16)
            near([function(x)], [model(x)])
    assert "tensors materialized" in caplog.text


@torch.no_grad()
def test_a_plan_compiles_to_the_same_code_each_time():
    model, x = decoder()
    codes = [run_and_get_code(compiled(model, "plan"), x)[1] for _ in range(2)]
    # A comment counts the graphs that were compiled in this process.
    one, other = (re.sub(r"^# AOT ID: .*$", "", code, flags=re.M) for (code,) in codes)
    assert one == other
