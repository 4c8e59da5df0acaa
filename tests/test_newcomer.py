"""What the first commands of a new user say."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import torch_materialize as tm
from torch_materialize import versions
from torch_materialize.cli.main import main
from torch_materialize.jobs.checkup import FEATURES, CheckupState, checkup
from torch_materialize.jobs.explain import beside_stock
from torch_materialize.results import tuned
from torch_materialize.results.folder import load_any

_BUILDER = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Linear(8, 8), nn.GELU()), torch.zeros(4, 8)

def branch():
    return (lambda x: x * 2 if x.sum() > 0 else x), torch.zeros(4, 8)

def shapes():
    return (lambda x: x @ torch.zeros(3, 3)), torch.zeros(4, 8)

def step():
    model = nn.Linear(8, 8)
    opt = torch.optim.SGD(model.parameters())
    def train(x):
        model(x).sum().backward()
        opt.step()
    return train, torch.zeros(4, 8)

def frozen():
    model = nn.Linear(8, 8).requires_grad_(False)
    return (lambda x: model(x).sum().backward()), torch.zeros(4, 8)
"""

_WITHOUT_TRITON = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "triton":
            raise ModuleNotFoundError("No module named 'triton'", name="triton")
sys.meta_path.insert(0, Hidden())
from torch_materialize.jobs.explain import compare
found = compare(sys.argv[1], ["stock", "plan"], "h200")
print([found.traffic(policy).bytes for policy in found.policies])
"""


@pytest.fixture
def builder(tmp_path):
    file = tmp_path / "model.py"
    file.write_text(_BUILDER)
    return file


def _said(*words, **how):
    return CliRunner().invoke(main, [str(word) for word in words], **how)


def test_what_is_offered_is_listed():
    assert {"explain", "keep", "inline", "Report"} <= set(dir(tm))


@pytest.mark.parametrize("pin", ["keep", "inline"])
def test_only_a_tensor_can_be_pinned(pin):
    with pytest.raises(TypeError, match=f"{pin}: expected a tensor; found int"):
        getattr(tm, pin)(5)


def test_stock_is_always_beside():
    assert [str(p) for p in beside_stock(["tune"])] == ["stock", "tune"]
    assert [str(p) for p in beside_stock(["plan", "stock"])] == ["plan", "stock"]


@pytest.mark.e2e
@pytest.mark.full
def test_bytes_for_a_gpu_need_no_triton(builder):
    from torch_materialize.jobs.explain import compare

    words = [sys.executable, "-c", _WITHOUT_TRITON, f"{builder}:build"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = compare(f"{builder}:build", ["stock", "plan"], "h200")
    expected = [found.traffic(policy).bytes for policy in found.policies]
    assert done.stdout.strip().splitlines()[-1] == str(expected)


@pytest.mark.parametrize(
    ("torch_version", "wanted"),
    [("2.11.0", "==3.6.*"), ("2.13.0", "==3.7.*"), ("2.14.1", "==3.8.*"), ("2.15.0", ">=3.9,<4")],
)
def test_without_triton_the_right_one_is_named(builder, monkeypatch, torch_version, wanted):
    found = {"torch": torch_version, "triton": "not installed"}
    monkeypatch.setattr(versions, "installed_versions", lambda: found)
    done = _said("explain", f"{builder}:build", "--device", "h200", "--code")
    assert done.exit_code != 0
    assert f"pip install 'triton{wanted}'" in done.output
    said = " ".join(_said("doctor").output.split())
    assert f"pip install 'triton{wanted}'" in said


def test_a_file_that_cannot_be_written_is_told_before_the_work():
    found = _said("compare", "gpt2", "--json", "/proc/x")
    assert found.exit_code == 2
    assert "/proc/x cannot be written" in found.output


@pytest.mark.e2e
def test_a_file_that_fails_in_the_end_leaves_the_result(builder, tmp_path, monkeypatch):
    from torch_materialize.results import base

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(base, "write_whole", full)
    out = tmp_path / "out.json"
    words = ("compare", f"{builder}:build", "--device", "cpu", "--policy", "stock")
    found = _said(*words, "--json", out)
    assert found.exit_code == 1
    assert "Fused kernels" in found.output
    assert "No space left on device" in found.output


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("branch", ["data-dependent", "model.py:9"]),
        ("shapes", ["[4, 8] X [3, 3]", "torch.zeros(3, 3)"]),
        ("frozen", ["requires_grad=True"]),
    ],
)
def test_what_cannot_be_traced_names_the_line(dynamo, builder, name, words):
    found = _said("compare", f"{builder}:{name}", "--device", "cpu", "--policy", "stock")
    assert found.exit_code == 1
    text = " ".join(found.output.split())
    assert all(word in text for word in words), text


@pytest.mark.e2e
@pytest.mark.parametrize("command", ["compare", "explain"])
def test_a_step_that_makes_its_own_backward_is_taken(dynamo, builder, command):
    found = _said(command, f"{builder}:step", "--device", "cpu", "--policy", "stock", "--verbose")
    words = ["forward of 7", "backward of 8", "inference of"]
    assert found.exit_code == 0, found.output
    text = " ".join(found.output.split())
    assert all(word in text for word in words), text


@pytest.mark.e2e
def test_one_damaged_record_does_not_lose_the_folder(builder, tmp_path):
    folder = tmp_path / "records"
    folder.mkdir()
    words = ("--device", "cpu", "--policy", "plan", "--json", folder / "1.json.gz")
    assert _said("explain", f"{builder}:build", *words).exit_code == 0
    (folder / "2.json.gz").write_bytes(b"\x1f\x8bno")
    (folder / "3.json.gz").write_text("[]")
    name = load_any(folder / "1.json.gz").graphs[0].decisions[0].node
    commands = [("report", folder), ("why", folder, name), ("diff", folder, f"{folder}@stock")]
    for command in commands:
        found = _said(*command)
        # A report is of everything; a story and a difference are of what there is.
        assert found.exit_code == (1 if command[0] == "report" else 0), found.output
        left_out = [x for x in found.stderr.splitlines() if x.startswith("left out: ")]
        assert len(left_out) == 2
        assert "2.json.gz: is damaged" in left_out[0] and "Make it anew" in left_out[0]
        assert "3.json.gz: " in left_out[1]
        assert found.stdout.strip()
    (folder / "1.json.gz").unlink()
    for command in commands:
        found = _said(*command)
        assert found.exit_code == 1
        assert "2.json.gz: is damaged" in found.output and "3.json.gz: " in found.output


def test_a_damaged_choice_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv(tuned.FOLDER_VARIABLE, str(tmp_path))
    (tmp_path / "abc.json").write_text("{")
    found = _said("tuned", "list")
    # A long path is folded wherever a line ends.
    assert "abc.json:isnotJSON" in "".join(found.output.split())


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("bogus", "unknown policy 'bogus'"),
        ("plan", "import torch_materialize.auto"),
        ("1", "names policy plan"),
        ("false", "'false': off"),
    ],
)
def test_doctor_says_what_becomes_of_the_environment(value, words):
    found = _said("doctor", "--verbose", env={"TORCH_MATERIALIZE": value, "COLUMNS": "200"})
    assert words in found.output


def test_doctor_has_a_verdict_and_details_only_where_they_are_asked_for(monkeypatch):
    monkeypatch.delenv("TORCH_MATERIALIZE", raising=False)
    short, long = _said("doctor").output, _said("doctor", "--verbose").output
    assert short.startswith("torch-materialize works here")
    assert "Upstream objects" not in short
    assert "Upstream objects" in long
    assert long.startswith(short.rstrip())
    monkeypatch.setenv("TORCH_MATERIALIZE", "plna")
    found = checkup()
    assert found.state is CheckupState.BROKEN
    assert found.problems[0].is_serious and "'plna'" in found.problems[0].what


def test_a_torch_without_the_names_that_we_import_is_a_problem_with_its_mend():
    def missing():
        raise ImportError("cannot import name 'scheduler'")

    found = checkup(missing)
    assert found.state is CheckupState.BROKEN
    assert not any(found.works(feature) for feature in FEATURES)
    assert "scheduler" in found.problems[0].what
    assert "2.11 to 2.15" in found.problems[0].mend


def test_ctrl_c_is_130_and_says_what_is_kept(tmp_path, monkeypatch):
    from torch_materialize.jobs import explain
    from torch_materialize.sweep import run

    def interrupted(*_args, **_how):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run", interrupted)
    monkeypatch.setattr(explain, "explain_target", interrupted)
    found = _said("sweep", "--family", "decoder", "--json", tmp_path / "s.json")
    assert found.exit_code == 130
    assert "--resume" in found.output
    found = _said("compare", "gpt2", "--tokens", 8192)
    assert found.exit_code == 130
    assert "nothing was written" in found.output
    assert "gpt2 has 1024 positions: 1024 tokens, not 8192" in found.output


_SLOW_TO_END = """
import sys, time
from torch_materialize.cli.main import main
from torch_materialize.sweep import workers

def slow(_children):
    print("ending", file=sys.stderr, flush=True)
    time.sleep(60)

workers._Children.stop = slow
main(sys.argv[1:])
"""


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("number", "times"),
    itertools.product([signal.SIGINT, signal.SIGTERM], [1, 2]),
)
@pytest.mark.full
def test_a_signal_ends_a_sweep_and_a_second_one_at_once(tmp_path, number, times):
    model, out = tmp_path / "model.py", tmp_path / "out.json"
    pid = tmp_path / "pid"
    sleep = (
        f"def sleep():\n    import os, time\n    open({str(pid)!r}, 'w').write(str(os.getpid()))"
    )
    model.write_text(f"{_BUILDER}\n{sleep}\n    time.sleep(300)\n")
    # The second signal keeps nothing more than the first: one model less to start a process for.
    kept = [f"{model}:build"] if times == 1 else []
    words = ["sweep", *kept, f"{model}:sleep", "--jobs", "1", "--device", "cpu"]
    start = ["-m", "torch_materialize"] if times == 1 else ["-c", _SLOW_TO_END]
    said = tmp_path / "said"
    with said.open("w") as sink:
        child = subprocess.Popen(
            [sys.executable, *start, *words, "--policies", "stock", "--json", str(out)],
            stderr=sink,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
    try:
        _until(lambda: child.poll() is not None or (pid.exists() and pid.read_text()))
        assert child.poll() is None, said.read_text()
        child.send_signal(number)
        if times == 2:
            _until(lambda: "ending" in said.read_text())
            child.send_signal(number)
        assert child.wait(600) == 128 + number
    finally:
        child.kill()
    text = said.read_text()
    assert "Traceback" not in text
    assert ("go on with --resume" in text) == (times == 1)
    assert out.exists() == bool(kept)
    if kept:
        assert [row["name"] for row in json.loads(out.read_text())["models"]] == kept
    _until(lambda: not _runs(int(pid.read_text())))
    assert not list(tmp_path.glob("torch-materialize-*"))


def _until(true, seconds=600):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.e2e
def test_what_cannot_be_told_does_not_claim_stock(dynamo, lenient, tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("TORCH_MATERIALIZE_RECORD", str(blocked / "records"))
    compiled = torch.compile(lambda x: (x * 2).relu(), options=tm.options("plan"))
    compiled(torch.randn(8))
    assert "a plan is used" in lenient.text
    assert "decides as stock" not in lenient.text
