"""The benchmarks' own parts: stand-ins for matmuls, tables from results."""

from __future__ import annotations

import collections
import fcntl
import shlex
import threading
from pathlib import Path

import click
import pytest
import torch

from torch_materialize.cli.main import main as cli

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]
# Seconds for what only a failure makes wait.
_LONG = 300


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.mark.e2e
@pytest.mark.usefixtures("benchmarks", "dynamo")
@pytest.mark.full
def test_stand_ins_leave_the_fused_kernels_as_they_are():
    from paired.cases import Case, Made
    from paired.predicted import predict
    from torch_materialize.core.devices import CPU
    from torch_materialize.models.decoder import Decoder

    def make(fake):
        with fake:
            return Made(Decoder(2, 128, 256).eval(), (torch.randn(128, 128).bfloat16(),))

    found = {
        part: predict(Case("decoder", part, 128, "", make), ["stock", "plan"], CPU, 1 << 20)
        for part in ("fused", "whole")
    }
    for policy in ("stock", "plan"):
        alone, all_of_it = (found[part][policy] for part in ("fused", "whole"))
        assert alone["bytes"] == all_of_it["bytes"] > 0
        assert alone["kernels"] == all_of_it["kernels"]
    assert found["fused"]["plan"]["bytes"] < found["fused"]["stock"]["bytes"]


@pytest.mark.usefixtures("benchmarks")
def test_every_case_has_a_label_of_its_own():
    from paired.cases import cases

    for device in ("cpu", "cuda"):
        labels = [case.label for case in cases(device)]
        assert len(labels) == len(set(labels)) > 30


@pytest.mark.usefixtures("benchmarks")
def test_results_that_are_kept_make_tables():
    from tables import tables

    for path in ROOT.glob("results/*.json"):
        rows = [line for line in tables([path]) if line.startswith("|")]
        assert len(rows) > 2, path.name
        heads = [number for number, line in enumerate(rows) if line.startswith("|---")]
        for start, end in zip(heads, [*(n - 1 for n in heads[1:]), len(rows)], strict=True):
            assert len({line.count("|") for line in rows[start - 1 : end]}) == 1, path.name


@pytest.mark.usefixtures("benchmarks")
def test_a_sweep_of_fewer_policies_hides_no_figure_of_the_others():
    from tables import sweeps

    every = "sweep-213-training-2026-11-26.json"
    less = "sweep-verify-213-training-2026-11-30.json"
    before, after = (
        [line for line in sweeps(files, "training") if "| traffic |" in line]
        for files in ([every], [every, less])
    )
    assert before == after and len(before) == 2  # of graphs, and of steps


def test_the_index_names_every_result_file_and_nothing_else(index):
    from torch_materialize.results.base import read_json

    files = index["file"]
    assert {path.name for path in ROOT.glob("results/*.json")} == set(files)
    on_pages = [name for p in index["page"].values() for name in (*p["files"], *p.get("rates", ()))]
    assert set(on_pages) == set(files)
    for name, one in files.items():
        for old in one.get("supersedes", ()):
            assert not (ROOT / "results" / old).exists(), f"{name} supersedes {old}"
        data = read_json(ROOT / "results" / name)
        if isinstance(data, dict):
            assert data.get("date", one["date"]) == one["date"], name
            torch = data.get("versions", {}).get("torch", one["torch"]).partition("+")[0]
            assert torch == one["torch"], name
            made = data.get("machine", {}).get("commit", one["commit"])
            assert made.startswith(one["commit"]), name


def test_a_page_is_what_the_result_files_say(index):
    import tables

    made = dict(tables.pages())
    assert set(made) == set(ROOT.glob("docs/results/*.md"))
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: run tables.py --pages"
        # Two screens at most.
        assert text.count("\n") <= 80, path
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert not [path.name for path in made if f"results/{path.name}" not in nav]


def test_commands_of_the_index_are_ones_that_there_are(index):
    """As far as a parser says: what they measure is not run."""
    import run

    parser = run.parser()
    for name, one in index["file"].items():
        for command in one["command"].split("; "):
            words = shlex.split(command)
            while "=" in words[0]:
                del words[0]
            if words[:2] == ["python", "benchmarks/run.py"]:
                parser.parse_args(words[2:])
            elif words[:3] == ["python", "-m", "pytest"]:
                assert (ROOT / words[-1]).is_file(), name
            elif words[0] == "torch-materialize":
                parsed(cli, words[1:])
            else:
                assert words[:2] == ["make", "vllm-test"], name


def parsed(command, words):
    """Has a command of click's, or one below it, take its words; it is not run."""
    if isinstance(command, click.Group):
        context = command.make_context("torch-materialize", list(words), resilient_parsing=False)
        name, below, rest = command.resolve_command(context, words)
        assert below is not None, name
        return parsed(below, rest)
    return command.make_context(command.name, list(words))


@pytest.fixture
def index(benchmarks):
    pytest.importorskip("tomllib", reason="from Python 3.11 on")
    import tables

    return tables.index()


@pytest.mark.usefixtures("benchmarks")
def test_a_fit_finds_the_rates_that_times_were_made_of():
    from fit import Sample, _fit
    from torch_materialize.core.cost import KINDS, Load, Rates, seconds

    true = Rates(
        {kind: Load(2e-6, 1e-10 * (1 + i), 5e-11, 2e-10, 1e-11) for i, kind in enumerate(KINDS)},
        cache=1 << 20,
        call=1e-4,
    )
    draw = torch.Generator().manual_seed(0)

    def load(kernels):
        each = (torch.rand(4, generator=draw).double() * 1e8).tolist()
        return Load(float(kernels), *each)

    works = [{kind: load(1 + (n + i) % 5) for i, kind in enumerate(KINDS)} for n in range(40)]
    found = _fit(
        [Sample(str(n), "stock", w, seconds(w.items(), true)) for n, w in enumerate(works)], 0, 0.0
    )
    for work in works:
        assert seconds(work.items(), found) == pytest.approx(seconds(work.items(), true), rel=1e-2)


@pytest.mark.usefixtures("benchmarks")
def test_a_fit_to_single_kernels_tells_moving_from_computing():
    from fit import Sample, _fit
    from torch_materialize.core.cost import KINDS, Load, Rates, seconds

    each = Load(2e-6, 1.5e-13, 1.5e-13, 1.5e-13, 3e-14, 1.5e-13)
    true = Rates(dict.fromkeys(KINDS, each), cache=1 << 20, overlap=True)
    draw = torch.Generator().manual_seed(0)
    samples = []
    for n in range(120):
        most = torch.tensor([1e8, 1e8, 1e8, 1e9, 1e8]) * 10.0 ** -(n % 4)
        amounts = (torch.rand(5, generator=draw) * most).tolist()
        work = {KINDS[n % 3]: Load(1.0, *amounts)}
        samples.append(Sample(str(n), "stock", work, seconds(work.items(), true), calls=0.0))
    found = _fit(samples, 1 << 20, 0.1)
    assert found.overlap
    for one in samples:
        assert seconds(one.work.items(), found) == pytest.approx(one.measured, rel=0.05)


@pytest.mark.usefixtures("benchmarks")
def test_a_gpu_run_says_what_is_missing(monkeypatch):
    import run

    find = run.importlib.util.find_spec
    monkeypatch.setattr(
        run.importlib.util, "find_spec", lambda name: None if name == "scipy" else find(name)
    )
    with pytest.raises(SystemExit, match=r"missing: scipy\..*pip download scipy"):
        run.require("cpu")


@pytest.mark.usefixtures("benchmarks")
@pytest.mark.parametrize("told_apart", [True, False])
def test_kernels_are_tuned_inside_of_a_step(monkeypatch, told_apart):
    """On a GPU only; here the times are made up."""
    from types import SimpleNamespace

    from torch._inductor.runtime.triton_heuristics import CachingAutotuner

    from paired import autotuned

    def choose(self):  # a kernel by itself
        self.launchers = self.launchers[-1:]

    def run(self):
        if self._cached_launcher is not None:  # as from torch 2.13 on
            return self._cached_launcher
        if len(self.launchers) > 1:
            self.autotune_to_one_config()
        self._cached_launcher = self.launchers[0]
        return self._cached_launcher

    def kernel(name, **seconds):
        made = CachingAutotuner.__new__(CachingAutotuner)
        made._cached_launcher = None
        made.fn = SimpleNamespace(__name__=name)
        made.seconds = seconds
        made.launchers = [SimpleNamespace(config=config) for config in seconds]
        return made

    monkeypatch.setattr(CachingAutotuner, "autotune_to_one_config", choose)
    monkeypatch.setattr(CachingAutotuner, "run", run)
    shared, one, other = kernel("k0", a=2, b=1), kernel("k1", a=1, b=2, c=3), kernel("k2", a=5)

    def step():
        for each in (shared, one, other):
            each.run()  # as generated code asks for it

    def kernel_times(step, repeats):
        each = [(k.fn.__name__, k.seconds[k.run().config]) for k in (shared, one, other)]
        return each if told_apart else []

    monkeypatch.setattr(autotuned, "kernel_times", kernel_times)
    with autotuned.choices_put_off():
        step()
    assert [k.launchers[0].config for k in (shared, one, other)] == ["a"] * 3
    tuned = autotuned.Tuned(step)
    best = {"k0": "b", "k1": "a", "k2": "a"} if told_apart else {"k0": "b", "k1": "c", "k2": "a"}
    assert tuned.configurations == best
    shared.seconds = {"a": 1, "b": 2}  # inside of another way
    again = autotuned.Tuned(step)
    assert again.configurations["k0"] == ("a" if told_apart else "b")
    tuned.apply()
    assert {k.fn.__name__: k.launchers[0].config for k in (shared, one, other)} == best


@pytest.mark.usefixtures("benchmarks")
def test_nobody_launches_while_another_is_timed(tmp_path, monkeypatch):
    from paired.turns import Turns

    turns = Turns(tmp_path)
    seen = []
    timed, may_end = threading.Event(), threading.Event()
    # Who is timed has the door and asks for the GPU; who comes late asks for the door.
    asks = {("timing", 2): threading.Event(), ("late", 1): threading.Event()}
    calls = collections.Counter()
    flock = fcntl.flock

    def noted(file, how):
        name = threading.current_thread().name
        calls[name] += 1
        if (name, calls[name]) in asks:
            asks[name, calls[name]].set()
        return flock(file, how)

    monkeypatch.setattr(fcntl, "flock", noted)

    def launch(name):
        with turns.beside_others():
            seen.append(name)

    def time_alone():
        with turns.alone():
            seen.append("timed")
            timed.set()
            may_end.wait(_LONG)
            seen.append("done")

    timing = threading.Thread(target=time_alone, name="timing")
    late = threading.Thread(target=launch, args=("late",), name="late")
    with turns.beside_others():
        launch("beside")  # in the same process or another, all the same to a lock on a file
        timing.start()
        assert asks["timing", 2].wait(_LONG)
        late.start()  # though somebody is inside: who waits to be alone is waited for
        assert asks["late", 1].wait(_LONG)
        assert seen == ["beside"]
    assert timed.wait(_LONG)
    assert seen == ["beside", "timed"]
    may_end.set()
    timing.join(_LONG)
    late.join(_LONG)
    assert seen == ["beside", "timed", "done", "late"]


@pytest.mark.e2e
@pytest.mark.full
@pytest.mark.usefixtures("benchmarks", "dynamo")
@pytest.mark.parametrize("part", ["fused", "whole"])
def test_each_way_stays_what_it_was_compiled_as(part, monkeypatch):
    """Dynamo once forgot the ways before, and compiled them anew while they were timed."""
    from torch._inductor.graph import GraphLowering

    from paired.cases import cases
    from paired.ways import AGAIN, STOCK, steps

    graphs = []
    compile_to_module = GraphLowering.compile_to_module

    def counted(self):
        graphs.append(self)
        return compile_to_module(self)

    monkeypatch.setattr(GraphLowering, "compile_to_module", counted)
    label = f"llama-3.1-8b, 16 tokens, {part}"
    made = next(case for case in cases("cpu", (16,), 32) if case.label == label).make(None)
    made.args[0].fill_(0.5)
    ways, answers = {}, {}
    for way, compiled in steps(made, (STOCK, AGAIN, "plan"), part):
        before = len(graphs)
        ways[way] = compiled()
        assert len(graphs) - before == 1, way
    before = len(graphs)
    with torch.compiler.set_stance("fail_on_recompile"):
        for way, step in ways.items():
            answers[way] = step()
    assert len(graphs) == before
    if part == "whole":
        torch.testing.assert_close(answers["plan"], answers[STOCK], atol=0.05, rtol=0.05)


@pytest.mark.usefixtures("benchmarks")
def test_a_way_is_a_policy_or_stock_with_a_setting():
    from paired import ways

    chosen = ways.options("stock, emulate_precision_casts=True")
    assert chosen["emulate_precision_casts"] is True
    assert ways.options("plan") != ways.options("stock")
    assert ways.policy_of("stock, emulate_precision_casts=True") == "stock"
    every = (ways.EAGER, ways.STOCK, ways.AGAIN, "traffic", "plan", "tune")
    assert [way for way in every if ways.is_predicted(way)] == ["stock", "traffic", "plan"]
    assert not ways.is_predicted("stock, emulate_precision_casts=True")
