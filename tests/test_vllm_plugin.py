"""The plugin for vLLM without vLLM: a stand-in that has its table of environment variables."""

from __future__ import annotations

import pytest

from fresh import upstream

STAND_IN = """
import logging, sys
environment_variables = {"VLLM_PORT": lambda: 1}
def compile_factors():
    return {name: value() for name, value in environment_variables.items()}
theirs = logging.getLogger("vllm")
theirs.addHandler(logging.StreamHandler(sys.stderr))
theirs.setLevel(logging.INFO)
"""
# As vLLM does where a plugin's line is not known to the keys of its artifacts.
BLIND = STAND_IN.replace("environment_variables.items()", "[('VLLM_PORT', lambda: 1)]")


def run(folder, program: str, stand_in: str = STAND_IN, **environment: str):
    package = folder / "vllm"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").touch()
    (package / "envs.py").write_text(stand_in)
    program = f"""
import sys
sys.path.insert(0, {str(folder)!r})
import torch_materialize as tm
from torch_materialize.integrations import vllm as plugin
from vllm import envs
before = envs.compile_factors()
{program}
"""
    done = upstream().run(program, **environment)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_on_by_default_once_and_undone(tmp_path):
    log = run(
        tmp_path,
        """
plugin.register()
plugin.register()
assert tm.active().name == "plan" and plugin.handle.active
with_us = envs.compile_factors()
assert with_us != before
with tm.policy("traffic"):
    assert envs.compile_factors() not in (before, with_us)
plugin.unregister()
plugin.unregister()
assert tm.active().name == "stock" and envs.compile_factors() == before
plugin.register()
assert envs.compile_factors() == with_us
""",
    )
    assert log.count("policy plan governs what vLLM compiles") == 1


@pytest.mark.parametrize("name", ["stock", "0", "", "off", "False"])
def test_off(tmp_path, name):
    log = run(
        tmp_path,
        "plugin.register()\nassert plugin.handle is None and envs.compile_factors() == before",
        TORCH_MATERIALIZE=name,
    )
    assert log == ""


@pytest.mark.parametrize("name", ["1", "on", "TRUE"])
def test_on_in_words_is_the_default(tmp_path, name):
    log = run(
        tmp_path, "plugin.register()\nassert tm.active().name == 'plan'", TORCH_MATERIALIZE=name
    )
    assert "policy plan governs what vLLM compiles" in log


def test_another_policy_has_other_keys(tmp_path):
    programs = "plugin.register()\nprint(envs.compile_factors(), file=sys.stderr)"
    keys = {
        run(tmp_path, programs, TORCH_MATERIALIZE=name).splitlines()[-1]
        for name in ("plan", "traffic", "plan:numerics=eager", "stock")
    }
    assert len(keys) == 4


LEFT_ALONE = """
plugin.register()
plugin.register()
assert plugin.handle is None and tm.active().name == "stock"
assert envs.compile_factors() == before
from torch._inductor import compile_fx
assert not hasattr(compile_fx.compile_fx, "__torch_materialize__")
"""


def test_a_misspelt_policy_is_one_line_and_leaves_vllm_as_it_is(tmp_path):
    log = run(tmp_path, LEFT_ALONE, TORCH_MATERIALIZE="pln", TORCH_MATERIALIZE_STRICT="1")
    assert len(log.splitlines()) == 1
    assert "Did you mean 'plan'" in log


def test_a_changed_torch_is_one_line_and_leaves_vllm_as_it_is(tmp_path):
    change = "from torch._inductor import ir\nir.StorageBox.num_reads = lambda self, deep: 0\n"
    log = run(tmp_path, change + LEFT_ALONE)
    assert len(log.splitlines()) == 1
    assert "StorageBox.num_reads" in log


def test_a_vllm_that_would_serve_stale_artifacts_is_left_as_it_is(tmp_path):
    log = run(tmp_path, LEFT_ALONE, BLIND)
    assert len(log.splitlines()) == 1
    assert "vLLM is left as it is" in log
    # An older or newer one, without the table at all.
    log = run(tmp_path, LEFT_ALONE, STAND_IN.replace("environment_variables", "another_table"))
    assert "vLLM is left as it is" in log
