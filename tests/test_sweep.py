"""The corpus, the sweep over it, its file and its command."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

import torch_materialize as tm
from torch_materialize.cli.main import main
from torch_materialize.cli.sweep_tables import print_sweep
from torch_materialize.sweep import file, workers
from torch_materialize.sweep import run as sweeping
from torch_materialize.sweep.registry import CORPUS
from torch_materialize.sweep.rows import GraphRow, Job, ModelRow, Result, Settings

pytestmark = pytest.mark.long

SETTINGS = Settings("h200", ("stock", "plan"))


def _row(name="m", stock=1000, plan=900, bound=None, seconds=1.0, kind="inference", index=0):
    return GraphRow(
        name,
        "decoder",
        kind,
        index,
        60,
        {"stock": stock, "plan": plan},
        {"stock": 3, "plan": 3},
        {} if bound is None else {"plan": bound},
        {"stock": 0.5, "plan": seconds},
    )


def _sweep(*graphs, models=()):
    return sweeping.Sweep(SETTINGS, {"torch": "2.13.0"}, "2026-01-01", tuple(models), graphs)


def _own(path, function):
    return Job(f"{path}:{function}", sweeping.OWN, "inference", "")


def test_summary_of_hand_made_rows():
    found = _sweep(
        _row(stock=1000, plan=500, bound=400.0, seconds=1.0),
        _row(stock=1000, plan=1002, bound=1002.0, seconds=2.0),
        _row(stock=1000, plan=1001, seconds=9.0),
    ).summary("plan")
    assert found.geomean == pytest.approx((0.5 * 1.002 * 1.001) ** (1 / 3))
    assert (found.graphs, found.best, found.worst) == (3, 0.5, 1.002)
    # Exactly 0.1% above stock is not more than 0.1%.
    assert found.worse == 1
    # Of the two gaps, 0 and 25 percent, nine of ten are reached with the second.
    assert found.gap == pytest.approx(25)
    assert found.seconds == (2.0, 9.0)


def test_files_of_one_torch_are_added_up(tmp_path, monkeypatch):
    """The documents' table: a graph that was swept again counts as it was then."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    from tables import tables

    first = _sweep(_row("a", plan=2000, bound=500.0), _row("b", plan=500, bound=500.0))
    halves = _row("b", plan=1000, kind="forward"), _row("b", plan=500, kind="backward")
    again = _sweep(_row("a", plan=500, bound=400.0), *halves)
    paths = [tmp_path / "first.json", tmp_path / "again.json"]
    for path, sweep in zip(paths, (first, again), strict=True):
        file.SWEEP.save(sweep, path)
    _, _, *rows = list(tables(paths))[:-1]
    assert rows == [
        "| 2.13.0 | inference, 2 | plan | x0.500 | x0.500 | x0.500 | 0 | on 1 of 2 (50.0%) |",
        "| 2.13.0 | training, 2 | plan | x0.707 | x0.500 | x1.000 | 0 |  |",
        "|  | training steps, 1 | plan | x0.750 | x0.750 | x0.750 | 0 |  |",
        "| 2.13.0 | all, 4 | plan | x0.595 | x0.500 | x1.000 | 0 | on 1 of 2 (50.0%) |",
    ]


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (9, 9), (10, 9), (11, 10), (20, 18)])
def test_nine_of_ten(count, expected):
    seconds = [float(n) for n in range(1, count + 1)]
    found = _sweep(*(_row(seconds=s) for s in reversed(seconds))).summary("plan")
    assert found.seconds[1] == expected


def test_summary_where_there_is_little():
    assert _sweep().summary("plan") is None
    found = _sweep(_row(stock=0, plan=0)).summary("plan")
    assert (found.geomean, found.worse, found.gap) == (1.0, 0, None)
    assert _sweep(_row(plan=0)).summary("plan").geomean == 0.0


def test_rows_stand_in_the_order_of_the_corpus_however_they_came():
    found = _sweep()
    for name, kinds in (("gpt2", ["backward", "forward"]), ("x.py:f", []), ("llama-8b", [])):
        mode = "training" if kinds else "inference"
        rows = tuple(_row(name, kind=kind) for kind in kinds or ["inference"])
        found = found.with_result(Result(ModelRow(name, "", mode, "ok"), rows))
    assert [m.name for m in found.models] == ["llama-8b", "gpt2", "x.py:f"]
    assert [g.kind for g in found.graphs] == ["inference", "forward", "backward", "inference"]


def test_names_of_the_corpus_are_unique_and_each_says_where_it_comes_from():
    names = [model.name for model in CORPUS]
    assert len(set(names)) == len(names) > 100
    assert all(model.package and model.target.count(":") == 1 for model in CORPUS)
    assert not any(":" in name for name in names)


def test_file_round_trip(tmp_path):
    path = tmp_path / "sweep.json"
    found = _sweep(_row(bound=890.5), models=[ModelRow("m", "decoder", "inference", "ok")])
    file.SWEEP.save(found, path)
    assert file.SWEEP.load(path) == found
    data = json.loads(path.read_text())
    assert (data["schema"], data["version"]) == ("torch-materialize/sweep", 1)
    assert data["graphs"][0]["ratios"] == {"stock": 1.0, "plan": 0.9}
    assert data["graphs"][0]["gaps_percent"] == {"plan": pytest.approx(1.0668, abs=1e-4)}
    assert data["summary"][1]["geomean"] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ('{"schema": "torch-materialize/comparison"}', "expected schema"),
        ('{"schema": "torch-materialize/sweep", "version": 99}', "found 99"),
        ('{"schema": "torch-materialize/sweep", "version": 1}', "damaged"),
    ],
)
def test_corrupt_file_gives_one_clear_error(tmp_path, text, message):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(tm.RecordError, match=message):
        file.resume(path, _sweep())


def test_resume_keeps_what_is_there_and_runs_the_rest(tmp_path, monkeypatch):
    path = tmp_path / "sweep.json"
    old = _sweep(_row(), models=[ModelRow("m", "", "inference", "timeout")])
    file.SWEEP.save(old, path)
    assert file.resume(tmp_path / "none.json", _sweep()) == _sweep()
    # Begun on another day, but with the same versions and settings.
    found = file.resume(path, dataclasses.replace(_sweep(), date="2026-02-02"))
    assert found == old
    ran = []

    def results(jobs, *_):
        ran.extend(jobs)
        for job in jobs:
            yield Result(ModelRow(job.name, job.family, job.mode, "ok"), (_row(job.name),))

    monkeypatch.setattr(sweeping, "results", results)
    jobs = [Job(n, "", m, "torch") for n in ("m", "other") for m in ("inference", "training")]
    kept = []
    found = sweeping.run(found, jobs, ended=lambda sweep, _: kept.append(len(sweep.models)))
    assert ran == jobs[1:]
    assert kept == [2, 3, 4]
    assert len(found.graphs) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"versions": {"torch": "2.12.1"}}, "torch: found 2.13.0, expected 2.12.1"),
        (
            {"settings": dataclasses.replace(SETTINGS, policies=("stock",))},
            "policies: found stock, plan, expected stock",
        ),
        (
            {"settings": dataclasses.replace(SETTINGS, device="a100")},
            "device: found h200, expected a100",
        ),
    ],
)
def test_resume_is_refused_where_rows_would_not_compare(tmp_path, change, message):
    path = tmp_path / "sweep.json"
    file.SWEEP.save(_sweep(_row()), path)
    with pytest.raises(tm.RecordError, match=message):
        file.resume(path, dataclasses.replace(_sweep(), **change))


@pytest.fixture
def models_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import os, time\n"
        "def crash(): os.abort()\n"
        "def hang(): time.sleep(3600)\n"
        "def fail(): raise ValueError('no weights')\n"
    )
    return file


@pytest.mark.e2e
@pytest.mark.full
def test_a_model_that_crashes_hangs_or_fails_is_a_row(models_file):
    jobs = [_own(models_file, name) for name in ("crash", "fail")]
    found = {r.model.name.rpartition(":")[2]: r for r in workers.results(jobs, SETTINGS, 1, 500)}
    assert found["crash"].model.status == "crash"
    assert "SIGABRT" in found["crash"].model.message
    assert "mine.py" in found["crash"].model.message
    assert found["fail"].model.status == "error"
    assert "raised ValueError at mine.py:4" in found["fail"].model.message
    assert "no weights" in found["fail"].model.message
    (hung,) = workers.results([_own(models_file, "hang")], SETTINGS, 1, 2)
    assert hung.model.status == "timeout"
    assert "within 2 s" in hung.model.message
    assert 2 <= hung.model.seconds < 3600


def test_graphs_measured_before_a_crash_are_kept(monkeypatch, tmp_path):
    row = json.dumps(dataclasses.asdict(_row("m")))
    code = (
        "import json, os, sys; out = json.loads(sys.argv[1])['output']; "
        f'open(out, \'w\').write(\'{{"graphs": [{row}], "errors": [], "done": false}}\'); '
        "print('the last words'); sys.stdout.flush(); os.kill(os.getpid(), 9)"
    )
    monkeypatch.setattr(workers, "_CHILD", code.replace("{", "{{").replace("}", "}}"))
    (found,) = workers.results([_own(tmp_path, "f")], SETTINGS, 1, 60)
    assert found.model.status == "crash"
    assert found.model.message == "SIGKILL (out of memory?): the last words"
    assert found.graphs == (_row("m"),)


def test_who_stops_listening_ends_the_children(monkeypatch, tmp_path):
    pids = tmp_path / "pids"
    code = (
        "import os, sys, time; "
        f"open({str(pids)!r}, 'a').write(str(os.getpid()) + chr(10)); "
        "time.sleep(0 if 'first' in sys.argv[1] else 3600)"
    )
    monkeypatch.setattr(workers, "_CHILD", code)
    jobs = [_own(tmp_path, name) for name in ("first", "second", "third")]
    results = workers.results(jobs, SETTINGS, 2, 600)
    assert next(results).model.name.endswith("first")
    results.close()
    left = [int(pid) for pid in pids.read_text().split()]
    assert not any(Path(f"/proc/{pid}").exists() for pid in left)


def test_a_model_whose_package_is_missing_is_a_row():
    job = Job("m", "decoder", "inference", "no_such_package_at_all")
    (found,) = workers.results([job], SETTINGS, 1, 60)
    assert found.model.status == "missing"
    assert "torch-materialize[corpus]" in found.model.message


def test_table_reads_well_in_80_columns_without_colour():
    names = ["timm-mobilenetv3_large_100", "/a/long/path/to/somebodys/own/models.py:function"]
    failed = ModelRow(names[1], "own", "inference", "crash", "SIGSEGV: " + "many words " * 20)
    found = _sweep(*(_row(n, bound=450.0, kind="backward", index=1) for n in names))
    found = found.with_result(Result(failed))
    out = io.StringIO()
    print_sweep(found, Console(file=out, width=80))
    text = out.getvalue()
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "\x1b" not in text
    assert text.index("geomean") < text.index("SIGSEGV") < text.index("nodes")
    assert "timm-mobilenetv3_large_100" in text
    assert "x0.900" in text and "100.00%" in text


def test_bad_words_give_one_clear_error(tmp_path):
    for words, message in [
        (["gpt22"], "Did you mean 'gpt2'"),
        (["--family", "decode"], "Did you mean 'decoder'"),
        (["gpt2", "--device", "h20"], "Did you mean 'h200'"),
        (["gpt2", "--policies", "stock,trafic"], "Did you mean 'traffic'"),
        (["gpt2", "--kind", "sideways"], "'sideways' is not one of"),
        (["llama-1b-loss", "--kind", "inference"], "no model is left to sweep"),
        ([str(tmp_path / "no.py:f")], "there is no file"),
        (["gpt2", "--resume"], "--json FILE"),
        (["gpt2", "--json", str(tmp_path / "no" / "x.json")], "there is no folder"),
    ]:
        done = CliRunner().invoke(main, ["sweep", *words])
        assert done.exit_code in (1, 2), words
        assert message in done.output
        assert "Traceback" not in done.output


def test_list_needs_no_torch():
    code = (
        "import sys\nfrom torch_materialize.cli.main import main\n"
        "main(['sweep', '--list', '--family', 'encoder'], standalone_mode=False)\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & "
        "{'torch', 'transformers', 'timm', 'diffusers', 'scipy'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "bert-base" in done.stdout
    assert "gpt2" not in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.e2e
@pytest.mark.full
def test_a_sweep_from_end_to_end_and_its_resumption(tmp_path):
    path = tmp_path / "sweep.json"
    words = ["sweep", "fused-add-rmsnorm", "--json", str(path), "--jobs", "1"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert "3 graphs of 1 model " in done.output
    found = file.SWEEP.load(path)
    assert [row.kind for row in found.graphs] == ["inference", "forward", "backward"]
    for row in found.graphs:
        assert (
            set(row.bytes) == set(row.kernels) == set(row.seconds) == set(found.settings.policies)
        )
        assert 0 < row.bounds["plan"] <= row.bytes["plan"] <= row.bytes["stock"]
        above = row.bytes["plan"] - row.bounds["plan"]
        assert sum(row.gaps["plan"].values()) == pytest.approx(above, abs=1)
    assert found.graphs[0].ratio("plan") < 0.95
    before = path.stat().st_mtime_ns
    again = CliRunner().invoke(main, [*words, "--resume"])
    assert again.exit_code == 0, again.output
    assert path.stat().st_mtime_ns == before
    refused = CliRunner().invoke(main, [*words, "--resume", "--device", "a100"])
    assert refused.exit_code == 1
    assert "device: found h200, expected a100" in refused.output
