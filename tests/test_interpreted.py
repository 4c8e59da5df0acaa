"""A planned GPU's generated Triton, run in Triton's interpreter: it computes what eager computes.

Everything here runs in processes that have the interpreter on from the start.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest
from click.testing import CliRunner
from torch._inductor import config

from fresh import INDUCTOR, Fresh
from tiers import but
from torch_materialize.cli.main import main
from torch_materialize.inductor.fx.decision import NESTED_REDUCTIONS as NESTED

pytestmark = pytest.mark.e2e

BENCHMARKS = os.path.join(os.path.dirname(os.path.dirname(__file__)), "benchmarks")

#: What each program below starts with.
START = """
import json, sys, torch
from torch.nn import functional as F
from torch_materialize.core.policy import parse
from torch_materialize.inductor.offline.planned_backend import planned_backend
from torch_materialize.inductor.read.at_hand import device_named

torch.manual_seed(0)

def compiled(function, policy, seen=lambda outcome, source: None, **how):
    torch._dynamo.reset()
    chosen = parse(policy, {"limits": "strong"} if policy != "stock" else {})
    backend = planned_backend(chosen, device_named("h200"), seen)
    return torch.compile(function, backend=backend, **how)

def unequal(a, b):
    return int((a.double() != b.double()).sum())
"""


@pytest.fixture(scope="module")
def interpreting():
    """Processes whose Triton interprets."""
    switches = {"TRITON_INTERPRET": "1", "TORCH_MATERIALIZE_STRICT": "1"}
    parent = Fresh({**os.environ, **switches}, INDUCTOR, "scipy.optimize")
    yield parent
    parent.close()


@pytest.fixture
def run(interpreting):
    """Runs a program and returns what it prints as JSON."""

    def result(program, *arguments):
        done = interpreting.run(START + textwrap.dedent(program), *arguments)
        assert not done.returncode, done.stderr
        return json.loads(done.stdout)

    return result


def test_numbers_are_converted_as_torch_does(run):
    """The interpreter's own conversions truncate; ties, infinities and tiny numbers included."""
    found = run("""
        ties = torch.tensor([1.00390625, 1.01171875, -1.00390625, 3e-39, 1e-42, float("inf"), 0.0])
        x = torch.cat([torch.randn(121), ties]) * torch.tensor([1.0, 1e-4, 20.0, 1e3]).repeat(32)
        x = x.clamp(-400, 400)
        types = torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2

        def narrow(x):
            whole = x.bfloat16().int(), x.int().half(), x.int().bfloat16() + 1
            wide = (x.bfloat16() * 1).float(), (x > 1).float(), (x > 1).bfloat16() * 3
            return *((x * 1).to(one) for one in types), *wide, *whole

        want, got = narrow(x), compiled(narrow, "plan:numerics=eager")(x)
        print(json.dumps([unequal(a, b) for a, b in zip(want, got)]))
    """)
    assert found == [0] * 10


def test_numbers_have_the_digits_that_a_gpus_kernels_take(run):
    """On torch 2.15 upstream's emulation rounds them, which CUDA's kernels do in no sum."""
    found = run("""
        x = torch.randn(16, 64).bfloat16()

        def numbers(x, cast=lambda x: x):
            return cast(x) + 0.1, cast(x) * 0.3, 1.1 - cast(x), cast(x) / 3

        want = [y.bfloat16() for y in numbers(x, lambda x: x.float())]
        got = compiled(numbers, "plan:numerics=eager")(x)
        print(json.dumps([unequal(a, b) for a, b in zip(want, got)]))
    """)
    assert found == [0] * 4


CASES = ["fp8_static", "int8_token", "nvfp4"]


@pytest.mark.parametrize("case", but(CASES[:1], CASES))
def test_a_quantizing_norm_rounds_as_eager_where_that_is_promised(run, case):
    stock, plan, eager = run(
        """
        sys.path.insert(0, sys.argv[1])
        import norm_quant as nq

        case, args = nq.CASES[sys.argv[2]], nq.inputs(8, 256)
        want = case(*args)[0]
        policies = "stock", "plan", "plan:numerics=eager"
        print(json.dumps([unequal(want, compiled(case, p)(*args)[0]) for p in policies]))
        """,
        BENCHMARKS,
        case,
    )
    # Some codes in a hundred, where stock goes on with digits that eager rounds away.
    assert stock > 8 and plan > 8
    assert eager <= 1  # a scale is a quotient here and a product there


@pytest.mark.full
def test_what_eager_computes_in_one_kernel_is_not_rounded_within(run):
    """A dropout's gradient becomes two products, of which the program wrote neither."""
    wrong = run("""
        gradient, mask = torch.randn(16, 64).bfloat16(), torch.rand(16, 64) > 0.1

        def dropped(gradient, mask):
            return torch.ops.aten.native_dropout_backward(gradient, mask, 1 / 0.9)

        got = compiled(dropped, "plan:numerics=eager")(gradient, mask)
        print(json.dumps(unequal(dropped(gradient, mask), got)))
    """)
    assert wrong == 0


@pytest.mark.full
@pytest.mark.skipif(NESTED not in config._config, reason="this torch has no nested reductions")
def test_nested_reductions_compute_the_same(run):
    """Off by default on torch 2.13 and 2.14, where `tune` tries them."""
    kernels, apart, *wrong = run(
        """
        sys.path.insert(0, sys.argv[1])
        import norm_quant as nq
        from torch._inductor import config

        name = sys.argv[2]
        case, args, sources, results = nq.fp8_group, nq.inputs(8, 256), [], []
        for nested in (True, False):
            with config.patch({name: nested}):
                function = compiled(case, "plan:numerics=eager", lambda _, s: sources.append(s))
                results.append(function(*args))
        counts = [source.count("async_compile.triton(") for source in sources]
        print(json.dumps([*counts, *map(unequal, *results)]))
        """,
        BENCHMARKS,
        NESTED,
    )
    assert (kernels, apart) == (1, 2) and not any(wrong)


@pytest.mark.full
def test_a_training_step_has_eagers_gradients(run):
    """Statistics that a forward writes, a saved mask, a gather and its sum, sizes that change."""
    found = run("""
        weight = torch.randn(32, 48, requires_grad=True)
        table = torch.randn(20, 32, requires_grad=True)

        def step(ids, mean):
            x = F.embedding(ids, table)
            y = F.gelu(F.layer_norm(x, (32,)) @ weight)
            mean.mul_(0.9).add_(0.1 * y.detach().mean(0))
            z = F.dropout(y, 0.5) + y * y.sigmoid()
            return (z.softmax(-1) * z).sum() + mean.sum()

        def run(function, size):
            torch.manual_seed(1)
            mean = torch.zeros(48)
            loss = function(torch.arange(size) % 20, mean)
            return [loss.detach(), mean, *torch.autograd.grad(loss, (weight, table))]

        apart = []
        for policy in ("stock", "plan"):
            function = compiled(step, policy, dynamic=True)
            for size in (24, 7):
                pairs = zip(run(function, size), run(step, size))
                apart.append(max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs))
        print(json.dumps(apart))
    """)
    assert max(found) < 1e-4


@pytest.mark.full
def test_a_plans_kernels_are_those_that_run(run):
    """The plan writes the rounded sum, and its code has a kernel less to read again."""
    found = run("""
        def block(x, y, weight):
            total = (x.float() + y.float()).to(x.dtype)
            wide = total.float()
            scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
            normed = (wide * scale).to(x.dtype) * weight
            return normed @ weight.diag(), total

        args = [torch.randn(16, 64).bfloat16() for _ in range(2)] + [torch.randn(64).bfloat16()]
        seen = []
        got = compiled(block, "plan:numerics=eager", lambda o, s: seen.append((o, s)))(*args)
        (outcome, source), = seen
        kernels = sum(1 for _ in outcome.graph.fused())
        print(json.dumps([kernels, source.count("async_compile.triton("),
                          [unequal(a, b) for a, b in zip(block(*args), got)]]))
    """)
    assert found[0] == found[1] and found[2] == [0, 0]


@pytest.mark.full
def test_random_programs_keep_their_promises(interpreting):
    tests = os.path.dirname(__file__)
    done = interpreting.run(
        textwrap.dedent("""
            import functools, sys
            sys.path.insert(0, sys.argv[1])
            from fuzzing.compiled import program_fails
            from fuzzing.hunt import hunt
            from fuzzing.programs import programs

            fails = functools.partial(program_fails, device="h200")
            tally = hunt(fails, programs(10), examples=3, seed=5)
            assert not tally.failures, tally.failures[0]
            print(tally.seen["compiled"])
        """),
        tests,
        TORCHINDUCTOR_FX_GRAPH_CACHE="0",
    )
    assert not done.returncode, done.stderr
    assert int(done.stdout) > 1


MODEL = """
    import torch
    from torch import nn

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.RMSNorm(64)
            self.up = nn.Linear(64, 256, bias=False)
            self.down = nn.Linear(128, 64, bias=False)

        def forward(self, x):
            gate, up = self.up(self.norm(x)).chunk(2, -1)
            return x + self.down(nn.functional.silu(gate) * up)

    def build():
        torch.manual_seed(0)
        return Gated().to(torch.bfloat16), torch.randn(32, 64, dtype=torch.bfloat16)
"""


@pytest.mark.full
def test_agree_says_what_a_gpu_that_is_not_there_would_round(tmp_path):
    """In a process that nobody prepared."""
    (tmp_path / "gated.py").write_text(textwrap.dedent(MODEL), encoding="utf-8")
    command = [sys.executable, "-m", "torch_materialize", "agree", f"{tmp_path}/gated.py:build"]
    done = subprocess.run(
        [*command, "--device", "h200", "--json", str(tmp_path / "agreement.json")],
        env={k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr
    text = " ".join(done.stdout.split())
    assert "`plan:numerics=eager` and `plan:numerics=eager` in pieces gave eager's outputs" in text
    assert "Run on NVIDIA H200, its code interpreted on" in text
    record = json.loads((tmp_path / "agreement.json").read_text())
    assert not record["rounds"] and not record["ways"][0]["of_stock"]
    (arises,) = record["ways"][0]["arises"]
    assert arises["operator"] == "mul" and arises["alone"] is False


def test_triton_that_compiles_is_one_clear_error(chain_file):
    """Here it was imported without the interpreter."""
    pytest.importorskip("triton")
    result = CliRunner().invoke(main, ["agree", chain_file, "--device", "h200"])
    assert result.exit_code == 1
    words = "expected TRITON_INTERPRET=1 when triton is imported; it was imported without"
    assert words in " ".join(result.output.split())


def test_a_device_that_nobody_knows_is_named(chain_file):
    result = CliRunner().invoke(main, ["agree", chain_file, "--device", "h20"])
    assert result.exit_code == 1 and "h200" in result.output


@pytest.fixture
def chain_file(tmp_path):
    text = "import torch\ndef build(): return torch.relu, torch.ones(2)"
    (tmp_path / "chain.py").write_text(text)
    return f"{tmp_path}/chain.py:build"


def test_a_small_constant_that_is_searched_is_on_the_planned_device(tmp_path):
    """`compare` ended in an error about two devices."""
    lines = "import torch\ndef build(): return lambda x: {} + x, torch.randn(64, 64)"
    for text in (
        "torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0]))",
        "torch.searchsorted(torch.tensor([-1.0, 0.0, 1.0]), x)",
    ):
        (tmp_path / "search.py").write_text(lines.format(text))
        result = CliRunner().invoke(main, ["compare", f"{tmp_path}/search.py:build"])
        assert result.exit_code == 0, result.output


def test_no_kernel_is_compiled_where_inductors_pool_is_up(run):
    """With two threads Inductor hands over each kernel, for which it asks the GPU's driver."""
    seen = run("""
        from torch._inductor import config
        from torch._inductor.async_compile import AsyncCompile

        config.compile_threads = 2
        AsyncCompile.use_process_pool()
        AsyncCompile._ready_future.result()
        assert AsyncCompile.use_process_pool()
        x = torch.randn(8, 64)
        print(json.dumps(unequal(compiled(lambda x: x * 2 + 1, "stock")(x), x * 2 + 1)))
    """)
    assert not seen
