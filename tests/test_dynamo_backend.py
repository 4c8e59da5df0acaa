"""torch.compile(model, backend="materialize"), found by its entry point in strangers' programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest

from fresh import upstream
from tiers import but

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parent.parent

# What an installed package leaves beside itself: the entry points of pyproject.toml.
METADATA = "Metadata-Version: 2.1\nName: torch-materialize\nVersion: 0.1.0\n"
ENTRY_POINTS = """[torch_dynamo_backends]
materialize = torch_materialize.integrations.dynamo:materialize
"""

# The user's program imports nothing of ours; `policies()` looks afterwards at what governed it.
PREAMBLE = """
import json, sys
sys.path.insert(0, "{installed}")
import torch
from torch._dynamo.utils import counters

governing = []

def watch():
    from torch_materialize.inductor.hooks import policy_pass
    mark = policy_pass.PolicyPass._mark
    def marked(self, graph):
        governing.append(str(self.policy))
        return mark(self, graph)
    policy_pass.PolicyPass._mark = marked

def f(x, y):
    s = x + y
    return (s * 2).sum() + (s - 1).cos().sum() + s.sum(-1).cos().sum()

def step(rows=64, **how):
    x = torch.arange(rows * 64.0).reshape(rows, 64).div(4096).requires_grad_()
    y = x.detach().clone()
    compiled = torch.compile(f, backend="materialize", **how)
    compiled(x, y).backward()
    want = x.detach().clone().requires_grad_()
    f(want, y).backward()
    torch.testing.assert_close(x.grad, want.grad)
"""


@pytest.fixture
def program(tmp_path):
    installed = tmp_path / "installed" / "torch_materialize-0.1.0.dist-info"
    installed.mkdir(parents=True)
    installed.joinpath("METADATA").write_text(METADATA)
    installed.joinpath("entry_points.txt").write_text(ENTRY_POINTS)

    def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
        preamble = PREAMBLE.replace("{installed}", str(installed.parent))
        program = preamble + textwrap.dedent(code)
        if any(variable.startswith("TORCHINDUCTOR_") for variable in environment):
            # Torch reads them when it is imported.
            kept = {k: v for k, v in os.environ.items() if k != "TORCH_MATERIALIZE"}
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", program],
                capture_output=True,
                text=True,
                check=False,
                env={**kept, "TORCH_MATERIALIZE_STRICT": "1", **environment},
            )
        else:
            done = upstream().run(program, **environment)
        assert done.returncode == 0, done.stderr
        return done

    return run


def test_the_project_declares_this_entry_point():
    assert "[project.entry-points.torch_dynamo_backends]\n" in (ROOT / "pyproject.toml").read_text()
    assert ENTRY_POINTS.splitlines()[1].replace("= ", '= "') + '"' in (
        (ROOT / "pyproject.toml").read_text()
    )


def test_a_program_that_imports_nothing_of_ours_is_planned_forward_and_backward(program):
    program(
        """
        assert "materialize" in torch._dynamo.list_backends()
        assert "torch_materialize" not in sys.modules
        torch.compile(lambda x: x + 1, backend="materialize")
        watch()
        step()
        assert governing == ["plan", "plan"], governing
        from torch._inductor import compile_fx
        assert not hasattr(compile_fx.compile_fx, "__torch_materialize__")
        """
    )


NAMED = [
    ("traffic", ["traffic", "traffic"]),
    ("plan:numerics=stock", ["plan:numerics=stock"] * 2),
    ("1", ["plan", "plan"]),
    ("off", []),
    ("0", []),
    ("", []),
]


@pytest.mark.parametrize(("value", "found"), but([NAMED[1]], NAMED))
def test_the_environment_names_the_policy(program, value, found):
    program(f"watch(); step()\nassert governing == {found}, governing", TORCH_MATERIALIZE=value)


@pytest.mark.full
def test_what_is_nearer_wins(program):
    program(
        """
        import torch_materialize as tm
        watch()
        step()
        with tm.enable("plan"):
            step(fullgraph=True, dynamic=False)
            torch._dynamo.reset()
            with tm.policy("stock"):
                step()
            torch._dynamo.reset()
            step(options=tm.options("plan", numerics="stock"))
        assert governing == ["traffic"] * 2 + ["plan"] * 2 + ["plan:numerics=stock"] * 2, governing
        """,
        TORCH_MATERIALIZE="traffic",
    )


@pytest.mark.full
def test_modes_and_options_mean_what_they_mean_for_inductor(program):
    program(
        """
        from torch._inductor import config
        import torch_materialize as tm
        watch()
        seen = []
        def look(graph):
            seen.append((config.max_autotune, config.epilogue_fusion))
        config.post_grad_custom_pre_pass = look
        step(mode="max-autotune-no-cudagraphs")
        torch._dynamo.reset()
        step(options={"epilogue-fusion": False})
        torch._dynamo.reset()
        step(options=tm.options("traffic", mode="max-autotune-no-cudagraphs"))
        assert seen == [(True, True)] * 2 + [(False, False)] * 2 + [(True, True)] * 2, seen
        assert governing == ["plan"] * 4 + ["traffic"] * 2, governing
        torch._dynamo.reset()
        step(mode="reduce-overhead")
        torch._dynamo.reset()
        for wrong in ({"mode": "reduce"}, {"options": {"max_autotun": True}}):
            try:
                step(**wrong)
            except Exception as error:
                assert "Unrecognized mode" in str(error) or "max_autotun" in str(error), error
            else:
                raise AssertionError(wrong)
        """
    )


@pytest.mark.full
def test_dynamic_shapes_take_no_more_compiles_than_under_inductor(program):
    program(
        """
        def graphs(backend):
            torch._dynamo.reset()
            counters.clear()
            compiled = torch.compile(f, backend=backend, dynamic=True)
            for rows in (48, 96, 33):
                x = torch.randn(rows, 64, requires_grad=True)
                compiled(x, x.detach() + 1).backward()
            return counters["stats"]["unique_graphs"]
        watch()
        assert graphs("materialize") == graphs("inductor") < 3
        assert set(governing) == {"plan"} and len(governing) < 6, governing
        """
    )


@pytest.mark.full
def test_cuda_graphs_are_given_back_with_a_reset(program):
    program(
        """
        from torch._inductor import cudagraph_trees
        given = []
        cudagraph_trees.reset_cudagraph_trees = lambda: given.append(1)
        step(mode="reduce-overhead")
        step(fullgraph=True)
        torch._dynamo.reset()
        assert given == [1], given
        torch._dynamo.reset()
        assert given == [1], given
        """
    )


@pytest.mark.full
def test_it_keeps_entries_of_the_caches_under_the_policys_key(program, tmp_path):
    caches = {
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
        "TORCHINDUCTOR_FX_GRAPH_CACHE": "1",
        "TORCHINDUCTOR_AUTOGRAD_CACHE": "1",
    }
    code = """
        step()
        aot = counters["aot_autograd"]
        print(json.dumps([aot["autograd_cache_miss"], aot["autograd_cache_hit"]]))
        """

    def seen(**more: str) -> list[int]:
        found: list[int] = json.loads(program(code, **caches, **more).stdout.splitlines()[-1])
        return found

    assert seen() == [1, 0]
    assert seen() == [0, 1]
    assert seen(TORCH_MATERIALIZE="off") == [1, 0]
    assert seen(TORCH_MATERIALIZE="plan") == [0, 1]


LOST = {
    "a misspelt policy": ("", "unknown policy 'pln'", {"TORCH_MATERIALIZE": "pln"}),
    "another torch": (
        "from torch._inductor import ir\nreads = ir.StorageBox.num_reads\n"
        "ir.StorageBox.num_reads = lambda self, *args, **how: reads(self, *args, **how)",
        "StorageBox.num_reads",
        {},
    ),
    "a torch without what we import": (
        "from torch._inductor import compile_fx, custom_graph_pass\n"
        "torch._dynamo.list_backends()\ndel custom_graph_pass.CustomGraphPass",
        "CustomGraphPass",
        {},
    ),
}


@pytest.mark.parametrize("name", but([list(LOST)[-1]], LOST))
def test_what_cannot_be_had_is_one_line_and_stock_inductor(program, name):
    change, words, environment = LOST[name]
    done = program(f"{change}\nstep()\ntorch._dynamo.reset()\nstep()", **environment)
    # Upstream's own line where a build for CUDA finds no GPU is none of ours.
    own = "torch/utils/cpp_extension.py"
    lines = [line for line in done.stderr.splitlines() if line and own not in line]
    assert len(lines) == 1, done.stderr
    assert words in lines[0]


REGISTRY = Path(str(find_spec("torch").origin)).parent / "_dynamo" / "backends" / "registry.py"


@pytest.mark.skipif(
    "torch._TorchCompileInductorWrapper" in REGISTRY.read_text(),
    reason="Dynamo itself needs the wrapper there",
)
@pytest.mark.full
def test_a_torch_without_its_own_wrapper_compiles(program):
    done = program(
        """
        del torch._TorchCompileInductorWrapper
        watch(); step(options={"max_autotune": True}); step(mode="reduce-overhead")
        assert governing[:2] == ["plan", "plan"]
        """
    )
    assert done.stderr.count("is left out") == 1
