"""`options` with a mode of torch.compile's, and what type checkers see of the public functions."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import get_args

import pytest
import torch
from torch._inductor import list_mode_options

import torch_materialize as tm
from tiers import but
from torch_materialize.core import policy as policies
from torch_materialize.errors import MaterializeError, UnsupportedTorchError
from torch_materialize.inductor.contract import seams


@pytest.mark.e2e
@pytest.mark.parametrize("mode", sorted(list_mode_options()))
@pytest.mark.parametrize("policy", ["stock", "traffic", "plan", "plan:numerics=eager"])
def test_a_mode_means_what_torch_says_and_ours_is_added(policy, mode):
    ours, both = tm.options(policy), tm.options(policy, mode=mode)
    assert both == {**list_mode_options(mode), **ours}
    assert not set(list_mode_options(mode)) & set(ours)
    torch.compile(lambda x: x + 1, options=both)  # torch knows every one of them


@pytest.mark.e2e
@pytest.mark.parametrize(
    "mode",
    but(
        ["lite"],
        ["reduce-overhead", "max-autotune-no-cudagraphs", "lite"],
    ),
)
def test_a_model_compiles_under_both(dynamo, mode):
    model = torch.nn.Sequential(torch.nn.LayerNorm(64), torch.nn.Linear(64, 64), torch.nn.GELU())
    x = torch.randn(32, 64, requires_grad=True)
    compiled = torch.compile(model, options=tm.options("plan", mode=mode))
    torch.testing.assert_close(compiled(x), model(x))
    compiled(x).sum().backward()


def test_the_settings_of_a_mode_reach_the_compile_with_the_policy(dynamo):
    seen = []

    class Looking(type(tm.options("traffic")["post_grad_custom_post_pass"])):
        def __call__(self, graph, is_inference=False):
            super().__call__(graph, is_inference)
            seen.append((torch._inductor.config.max_autotune, self.policy.name))

    options = tm.options("traffic", mode="max-autotune-no-cudagraphs")
    own = options["post_grad_custom_post_pass"]
    options["post_grad_custom_post_pass"] = Looking(own.policy, own.chained)
    torch.compile(lambda x: (x + 1).sum(), options=options)(torch.randn(8))
    assert seen == [(True, "traffic")]


def test_a_misspelt_mode_is_one_error_that_says_which_there_are():
    with pytest.raises(ValueError, match="unknown mode 'reduce-overheads'") as error:
        tm.options("plan", mode="reduce-overheads")
    assert isinstance(error.value, MaterializeError)
    assert "'max-autotune'" in str(error.value)
    assert "Did you mean 'reduce-overhead'?" in str(error.value)
    with pytest.raises(tm.UnknownPolicyError, match="Name one of these"):
        tm.options("stock", mode="q")


def test_a_torch_that_does_not_tell_its_modes_is_named(monkeypatch):
    monkeypatch.delattr("torch._inductor.list_mode_options")
    assert tm.options("plan")
    with pytest.raises(UnsupportedTorchError, match="list_mode_options"):
        tm.options("plan", mode="reduce-overhead")
    assert not seams.check("policy")


def test_the_names_that_checkers_know_are_those_that_there_are():
    assert get_args(policies.PolicyName) == tuple(policies.POLICIES)
    assert get_args(policies.Numerics) == tuple(policies.NUMERICS)


PROGRAM = """
import torch_materialize as tm
from torch_materialize import Numerics

chosen: Numerics = "eager"
tm.options("plan", numerics=chosen, mode="reduce-overhead")
tm.options("plan:numerics=stock")
with tm.enable("traffic"), tm.policy(tm.Policy("plan"), numerics="stock") as on:
    promised: Numerics = on.numerics
tm.explain(print, policies=["plan", "plan:numerics=eager", tm.Policy("stock")])
tm.enable("plan", numerics="eagre")  # wrong
tm.options("plan", numeric="eager")  # wrong
tm.policy("plan", numerics="bitwise")  # wrong
tm.options(numerics=True)  # wrong
tm.explain(print, policies=[3])  # wrong
"""


@pytest.mark.e2e
@pytest.mark.full
def test_a_type_checker_sees_what_may_be_said(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "user.py").write_text(textwrap.dedent(PROGRAM))
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = True\ndisallow_any_unimported = False\n"
        "[mypy-torch.*,scipy.*]\nfollow_imports = skip\nignore_missing_imports = True\n"
    )
    checker = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "user.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in checker.stdout.splitlines() if line.startswith("user.py")]
    lines = PROGRAM.splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    found = {int(line.split(":")[1]) for line in said if ": error:" in line}
    assert found == wrong, checker.stdout + checker.stderr
