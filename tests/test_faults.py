"""Whatever goes wrong inside of us, a compile goes on as stock; and nothing is half-written."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.codecache import PyCodeCache
from torch._inductor.codegen.cpp import CppScheduling
from torch._inductor.codegen.wrapper import PythonWrapperCodegen
from torch._inductor.graph import GraphLowering
from torch._inductor.scheduler import Scheduler
from torch._inductor.virtualized import V

import torch_materialize as tm
from tiers import but
from torch_materialize import activation
from torch_materialize.inductor.fx import decision
from torch_materialize.inductor.hooks import cast_passes, graph_lowering, install, policy_pass
from torch_materialize.inductor.lower import pins, trial
from torch_materialize.inductor.lower.handover import Handover
from torch_materialize.inductor.plan import rounds, trials
from torch_materialize.inductor.plan.trials import Trials
from torch_materialize.inductor.read import dag, pin_nodes
from torch_materialize.inductor.read.recording import Recording
from torch_materialize.results.base import read_json

pytestmark = pytest.mark.long

POLICIES = ("stock", "traffic", "plan", "plan:numerics=stock", "plan:numerics=eager")

# Under `plan` one of its sums is written to memory, which stock recomputes.
PROGRAM = """
import torch

@torch.library.custom_op("torch_materialize_faults::opaque", mutates_args=())
def opaque(x: torch.Tensor) -> torch.Tensor:
    return x.clone()

@opaque.register_fake
def _(x):
    return torch.empty_like(x)

def norm(x):
    return opaque(x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-3))

def norms(x, a, b, c):
    first = x + a
    second = first + norm(first) + b
    third = second + norm(second) + c
    return norm(third), third

def arguments():
    torch.manual_seed(0)
    # So large that what is saved is worth a launch on any CPU.
    return [torch.randn(4096, 256) for _ in range(4)]
"""
scope: dict = {}
exec(PROGRAM, scope)
norms, arguments = scope["norms"], scope["arguments"]


def generated(modules) -> str:
    """The code of the last compile, wherever it came from, without what is new each time."""
    text = Path(modules[-1].__file__).read_text()
    return "\n".join(line for line in text.splitlines() if "AOT ID" not in line)


def chain(keep, inline):
    """Pins that are honoured, that change nothing and that cannot be honoured."""

    def model(x, a, b, c):
        first = x + a
        second = first + inline(keep(scope["norm"](first))) + b
        third = second + scope["norm"](second) + c
        return scope["norm"](third), third, inline(third * 2) @ c.T

    return model


unpinned, pinned = chain(lambda x: x, lambda x: x), chain(tm.keep, tm.inline)


def bare(text: str) -> str:
    """Code without comments and names of kernels, which name the operators of the graph."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith(("#", "//")))
    return re.sub(r"cpp_fused_\w*?(\d+)\b", r"kernel\1", "\n".join(lines))


def code(policy: str, model=norms) -> str:
    torch._dynamo.reset()
    before = len(PyCodeCache.modules)
    with torch.no_grad(), tm.policy(policy):
        got = torch.compile(model)(*arguments())
    torch.testing.assert_close(got, model(*arguments()), rtol=1e-4, atol=1e-4)
    assert len(PyCodeCache.modules) > before
    return generated(PyCodeCache.modules)


@pytest.fixture(scope="module")
def codes():
    return {policy: code(policy) for policy in ("stock", "plan")}


class Planted(Exception):
    pass


def raises(error):
    def fail(*_args, **_kwargs):
        raise error

    return fail


def plant_later(monkeypatch, stage):
    """Fails in compiles that a policy governs: not in dry runs, and not as stock."""
    if stage in LOWERING_STAGES:
        # A compile that takes over a trial lowering does not come through them.
        monkeypatch.setattr(Handover, "take", lambda *_: False)
    where, name = LATER_STAGES[stage]
    upstream = getattr(where, name)

    @functools.wraps(upstream)
    def fails(*args, **kwargs):
        dry = isinstance(V.graph, Recording) or isinstance(args[0], Recording)
        if not dry and not activation.is_given_up():
            raise Planted(stage)
        return upstream(*args, **kwargs)

    monkeypatch.setattr(where, name, fails)


STAGES = {
    "reader of kernels": (trial, "read_scheduled"),
    "reader of values": (trial, "read_dag"),
    "planner": (rounds, "plan"),
    "dry run": (trials, "trial"),
    "search": (graph_lowering, "search"),
    "fold": (decision, "fold"),
    "apply rounding": (decision, "apply_rounding"),
    "mark": (decision, "mark"),
    "cache key": (policy_pass, "implementation"),
    "settings": (install, "_governing"),
    "order of the program": (cast_passes.HideCasts, "_note_and_hide"),
    "post-grad pass": (policy_pass, "hold_for_lowering"),
}

# What is upstream's between our decision and the finished code.
LOWERING_STAGES = {
    "lowering of a node": (GraphLowering, "run_node"),
    "lowering of the outputs": (GraphLowering, "finalize"),
    "scheduler": (Scheduler, "__init__"),
    "fusion": (Scheduler, "fuse_nodes"),
}
LATER_STAGES = LOWERING_STAGES | {
    "code of a kernel": (CppScheduling, "codegen_node"),
    "code of the wrapper": (PythonWrapperCodegen, "generate"),
    "build of a kernel": (AsyncCompile, "cpp_pybinding"),
    "module": (PyCodeCache, "load_by_key_path"),
}

# Parts of what lowers a pin, or reads pins for the plan.
PIN_STAGES = {
    "storage of the argument": (pins, "storage_of"),
    "readers": (pins, "readers"),
    "buffer to take back": (pins, "_unwritten"),
    "who reads copies": (pins, "_copies"),
    "reason of a buffer": (pins, "_reason"),
    "need of a buffer": (pins, "_need"),
    "line of the model": (pins, "source_line"),
    "kind of a pin": (pins, "is_pin"),
    "aliases": (pin_nodes, "_is_alias"),
    "pins of a plan": (dag, "pinned"),
}
# Without an answer to these, a value may be written into later: it is copied, as Inductor
# copies for `clone`.
COPYING = {"what is written": (pins, "is_written"), "storages": (pin_nodes, "_storages")}


def warned(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "torch_materialize"]


@pytest.mark.e2e
@pytest.mark.usefixtures("dynamo")
class TestPlantedExceptions:
    @pytest.mark.full
    def test_the_plan_is_another_code_than_stocks(self, codes):
        assert codes["plan"] != codes["stock"]

    @pytest.mark.parametrize("stage", but(["planner", "post-grad pass"], STAGES))
    def test_stage(self, stage, codes, lenient, monkeypatch):
        where, name = STAGES[stage]
        monkeypatch.setattr(where, name, raises(Planted(stage)))
        assert code("plan") == codes["stock"]
        (line,) = warned(lenient)
        assert f"Planted: {stage}" in line
        assert "Inductor decides as stock" in line

    def test_what_fails_after_the_marks_takes_them_back(self, codes, lenient, monkeypatch):
        mark = decision.mark

        def marks_and_fails(*args):
            mark(*args)
            raise Planted("after")

        monkeypatch.setattr(decision, "mark", marks_and_fails)
        assert code("plan") == codes["stock"]
        assert len(warned(lenient)) == 1

    def test_the_note_of_the_order_fails_half_way(self, codes, lenient, monkeypatch):
        # Asked first for the settings, then by the pass itself.
        answers = mock.Mock(side_effect=[False, Planted("order"), Planted("order")])
        monkeypatch.setattr(cast_passes, "folds_narrow_casts", answers)
        assert code("plan") == codes["stock"]
        assert answers.call_count > 1
        assert [("Planted: order" in line) for line in warned(lenient)] == [True]

    @pytest.mark.parametrize(
        "stage", but(["mark"], ["reader of values", "planner", "mark", "order of the program"])
    )
    def test_strict_mode_raises(self, stage, monkeypatch):
        where, name = STAGES[stage]
        monkeypatch.setattr(where, name, raises(Planted(stage)))
        with pytest.raises(Exception, match=f"Planted: {stage}"):
            code("plan")

    @pytest.mark.parametrize("policy", but(["plan"], ["traffic", "plan"]))
    @pytest.mark.parametrize("stage", but(["fusion", "build of a kernel"], LATER_STAGES))
    def test_a_later_stage_of_upstreams(self, stage, policy, codes, lenient, monkeypatch):
        plant_later(monkeypatch, stage)
        assert code(policy) == codes["stock"]
        (line,) = warned(lenient)
        assert f"Planted: {stage}" in line
        assert "Inductor decides as stock" in line

    @pytest.mark.full
    @pytest.mark.parametrize("stage", ["scheduler", "build of a kernel"])
    def test_a_later_stage_in_strict_mode_raises(self, stage, monkeypatch):
        plant_later(monkeypatch, stage)
        with pytest.raises(Exception, match=f"Planted: {stage}"):
            code("plan")

    @pytest.mark.parametrize(
        "stage", but(["fusion"], ["lowering of a node", "fusion", "code of a kernel"])
    )
    def test_what_stock_raises_is_not_ours(self, stage, lenient, monkeypatch):
        where, name = LATER_STAGES[stage]
        fails = functools.wraps(getattr(where, name))(raises(Planted(stage)))
        monkeypatch.setattr(where, name, fails)
        with pytest.raises(Exception, match=f"Planted: {stage}"):
            code("plan")
        assert not warned(lenient)

    def test_a_candidate_that_cannot_be_lowered_is_dropped_alone(self, codes, lenient, monkeypatch):
        """The first plan that is tried; another one is taken."""
        tried = []
        upstream = Trials.lowered

        def fails_once(trials, why, decision, *how, **more):
            if decision.store is not None:
                tried.append(decision.store)
                if len(tried) == 1:
                    raise trial.LoweringError("planted")
            return upstream(trials, why, decision, *how, **more)

        monkeypatch.setattr(Trials, "lowered", fails_once)
        code("plan")
        assert tried
        assert not warned(lenient)

    @pytest.mark.parametrize(
        "stage", but(["planner"], ["dry run", "planner", "mark", "order of the program"])
    )
    def test_an_interrupt_passes_through(self, stage, codes, lenient, monkeypatch):
        where, name = STAGES[stage]
        with monkeypatch.context() as planted:
            planted.setattr(where, name, raises(KeyboardInterrupt()))
            with pytest.raises(KeyboardInterrupt):
                code("plan")
        assert not warned(lenient)
        assert code("plan") == codes["plan"]
        assert code("stock") == codes["stock"]


@pytest.fixture(scope="module")
def bare_codes():
    return {policy: bare(code(policy, unpinned)) for policy in ("stock", "plan")}


@pytest.mark.e2e
@pytest.mark.usefixtures("dynamo")
class TestPins:
    """A pin that fails is as if it was not there, and its graph is not planned."""

    @pytest.mark.full
    def test_the_plan_is_another_code_with_the_pins_too(self, bare_codes):
        assert bare(code("stock", pinned)) == bare_codes["stock"]
        assert bare(code("plan", pinned)) not in (bare_codes["stock"], code("stock", pinned))

    @pytest.mark.parametrize("policy", but(["plan"], ["stock", "plan"]))
    @pytest.mark.parametrize("stage", but(["readers"], PIN_STAGES))
    def test_stage(self, stage, policy, bare_codes, lenient, monkeypatch):
        where, name = PIN_STAGES[stage]
        monkeypatch.setattr(where, name, raises(Planted(stage)))
        assert bare(code(policy, pinned)) == bare_codes["stock"]
        planted = [line for line in warned(lenient) if "Planted" in line]
        # Stock asks nobody about a plan.
        assert len(planted) == (1 if (stage, policy) != ("pins of a plan", "stock") else 0)

    @pytest.mark.parametrize("stage", COPYING)
    @pytest.mark.full
    def test_a_value_that_may_be_written_is_copied(self, stage, lenient, monkeypatch):
        where, name = COPYING[stage]
        monkeypatch.setattr(where, name, raises(Planted(stage)))
        assert code("plan", pinned) == code("stock", pinned)
        assert sum("Planted" in line for line in warned(lenient)) == 1

    @pytest.mark.full
    @pytest.mark.parametrize("stage", ["readers", "need of a buffer", "storages"])
    def test_strict_mode_raises(self, stage, monkeypatch):
        where, name = {**PIN_STAGES, **COPYING}[stage]
        monkeypatch.setattr(where, name, raises(Planted(stage)))
        with pytest.raises(Exception, match=f"Planted: {stage}"):
            code("plan", pinned)

    @pytest.mark.usefixtures("unlowered_pins")
    def test_what_cannot_be_taught_copies(self, lenient, monkeypatch):
        monkeypatch.setattr(pins.seams, "require", raises(Planted("register")))
        code("stock", pinned)
        assert ["Planted: register" in line for line in warned(lenient)] == [True]


WRITER = """
import json, sys
from pathlib import Path
from torch_materialize.results.base import write_whole
# Made before, so that hardly any time goes into anything but writing.
texts = [json.dumps({"number": n, "numbers": [n] * 200_000}).encode() for n in range(4)]
while True:
    for text in texts:
        write_whole(Path(sys.argv[1]), text)
    print(flush=True)
"""


def test_killed_while_writing_leaves_the_old_file_or_the_new(tmp_path):
    path = tmp_path / "record.json"
    for reads in (0, 1, 2, 4, 8):  # and wherever in its work the writer is by then
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        writer.stdout.readline()
        for _ in range(reads):
            read = read_json(path)  # beside the writer, too
            assert set(read["numbers"]) == {read["number"]}
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        read = read_json(path)
        assert set(read["numbers"]) == {read["number"]}
        assert len(read["numbers"]) == 200_000


COMPILES = """
import json, sys
sys.path.insert(0, sys.argv[2])
import torch
from torch._inductor.codecache import PyCodeCache
import torch_materialize as tm
from test_faults import arguments, generated, norms
with torch.no_grad(), tm.policy(sys.argv[1]):
    torch.compile(norms)(*arguments())
print(json.dumps(generated(PyCodeCache.modules)))
"""


@pytest.mark.full
@pytest.mark.e2e
@pytest.mark.usefixtures("dynamo")
def test_many_processes_over_one_cache_folder_do_not_mix(tmp_path):
    """All at once over an empty folder, and again over what they left there."""
    environment = {
        **os.environ,
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
        "TORCHINDUCTOR_FX_GRAPH_CACHE": "1",
        "TORCHINDUCTOR_AUTOGRAD_CACHE": "1",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    want = {policy: code(policy) for policy in POLICIES}
    assert len(set(want.values())) >= 2
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(COMPILES)]
    for _ in range(2):
        with contextlib.ExitStack() as stack:
            running = [
                (
                    policy,
                    stack.enter_context(
                        subprocess.Popen(
                            [*command, policy, os.path.dirname(__file__)],
                            env=environment,
                            stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE,
                            text=True,
                        )
                    ),
                )
                for policy in (*POLICIES, "plan")
            ]
            for policy, process in running:
                out, err = process.communicate()
                assert process.returncode == 0, err
                assert json.loads(out) == want[policy], policy
