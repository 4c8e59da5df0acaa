"""``upstream-tests`` on a small checkout of our own making; PyTorch's own is not at hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from torch_materialize.core.policy import STOCK, parse
from torch_materialize.errors import RecordError, TargetError
from upstream import outcomes as upstream_file
from upstream.outcomes import RUN, TestOutcome, UpstreamRun
from upstream.plugin import OUTCOMES, events
from upstream.run import find_tests, run
from upstream_tests import main

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

pytestmark = [pytest.mark.e2e, pytest.mark.long]

# Decorated like upstream's: a byte count is text that expecttest compares.
BYTES = """
import torch
from torch._inductor import metrics
from torch.testing._internal.common_utils import TestCase, run_tests

# Bytes are only counted for who asks for them.
torch._logging.set_logs(inductor_metrics=True)

def moved(f, *inputs):
    metrics.reset()
    torch._dynamo.reset()
    torch.compile(f)(*inputs)
    return str(metrics.num_bytes_accessed)

@torch.library.custom_op("upstream_tests::opaque", mutates_args=())
def opaque(x: torch.Tensor) -> torch.Tensor:
    return x.clone()

@opaque.register_fake
def _(x):
    return torch.empty_like(x)

class Bytes(TestCase):
    def test_fewer(self):
        def norm(x):
            return opaque(x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-3))
        def f(x, a, b, c):
            first = x + a
            second = first + norm(first) + b
            third = second + norm(second) + c
            return norm(third), third
        # So large that what is saved is worth a launch on any CPU.
        x = [torch.randn(4096, 256) for _ in range(4)]
        self.assertExpectedInline(moved(f, *x), "1")
        self.assertExpectedInline(moved(lambda x: x + 1, x[0]), str(2 * 4096 * 256 * 4))

    def test_more(self):
        # More bytes because of a policy is not what policies do, so it is said here.
        import os
        plan = os.environ["TORCH_MATERIALIZE"] != "stock"
        self.assertExpectedInline(str(100 + 8 * plan), "100")

    def test_text(self):
        self.assertExpectedInline("a text", "another text")

if __name__ == "__main__":
    run_tests()
"""

MIXED = """
import os, signal, time
import pytest, torch
from torch.testing._internal.common_utils import TestCase
from inductor_helpers import twice

plan = os.environ["TORCH_MATERIALIZE"] != "stock"

def test_unchanged():
    assert twice(2) == 4

def test_fails_both_times():
    assert twice(2) == 5

def test_policy_is_on_before_the_file():
    from torch._inductor.compile_fx import compile_fx
    assert hasattr(compile_fx, "__torch_materialize__") == plan

def test_worse():
    assert not plan, "only with stock"

class Cases(TestCase):
    def test_better(self):
        self.assertTrue(plan)

    @pytest.mark.skip
    def test_skipped(self):
        pass

def test_crashes():
    if plan:
        os.kill(os.getpid(), signal.SIGSEGV)

def test_leaves():
    if plan:
        os._exit(0)

def test_hangs():
    if plan:
        time.sleep(1000)

@pytest.fixture
def broken():
    yield
    assert not plan, "in tear-down"

def test_breaks_behind_itself(broken):
    pass

def test_after_all_this():
    pass
"""


# In the style of upstream's test_perf.py: every tensor on the GPU, and nothing said of that.
ON_A_GPU = """
import torch
from torch.testing._internal.common_utils import TestCase
from torch.testing._internal.inductor_utils import GPU_TYPE, HAS_CPU

def T(*size, device=GPU_TYPE):
    return torch.randn(size, device=device)

class Perf(TestCase):
    device = GPU_TYPE

    def test_runs(self):
        assert HAS_CPU
        def f(x):
            y = x.sin() + 1
            return y.softmax(-1), (y * 2).sum(0)
        x = T(17, 8)
        self.assertEqual(torch.compile(f)(x), f(x))

    def test_gains_a_few_bytes(self):
        def f(x, a, b):
            first = x + a
            second = first.softmax(-1) + first + b
            return second.softmax(-1), second.mean(-1), (first * second).sum(0)
        x = [T(4, 8) for _ in range(3)]
        self.assertEqual(torch.compile(f)(*x), f(*x))
"""

# It asks for a GPU outright.
NEEDS_A_GPU = """
import torch
from torch.testing._internal.common_utils import TestCase

class Needs(TestCase):
    def test_one(self):
        torch.randn(3, device="cuda")

    def test_two(self):
        torch.randn(3, device="cuda")

    def test_passes(self):
        pass
"""

WRONG = """
import os
import torch
from torch.testing._internal.common_utils import TestCase

plan = os.environ["TORCH_MATERIALIZE"] != "stock"

class Wrong(TestCase):
    def test_wrong_under_a_policy(self):
        self.assertEqual(torch.ones(4), torch.ones(4) + torch.eye(4)[0] * plan)

    def test_wrong_with_both(self):
        self.assertEqual(torch.ones(4), torch.ones(4) + torch.eye(4)[0])

    def test_wrong_for_another_reason(self):
        if plan:
            raise KeyError("buf1")
        self.assertEqual(1, 2)

    def test_right_1(self):
        pass

    def test_right_2(self):
        pass
"""

# No torch: these are about processes.
SLOW = """
import os, subprocess, time
from pathlib import Path

ran = Path(__file__).with_name("ran.txt")

def note(what):
    with open(ran, "a") as file:
        file.write(what + "\\n")

def test_first():
    note("first")

def test_second():
    note("second")

def test_slow():
    if not ran.with_name("go").exists():
        child = subprocess.Popen(["sleep", "1000"])
        note(f"pids {os.getpid()} {child.pid}")
        time.sleep(1000)
    note("slow")

def test_last():
    note("last")
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    root = tmp_path_factory.mktemp("pytorch")
    folder = root / "test" / "inductor"
    folder.mkdir(parents=True)
    (root / "torch").mkdir()
    (root / "torch" / "__init__.py").write_text("raise ImportError('the sources')")
    (root / "test" / "inductor_helpers.py").write_text("def twice(x):\n    return 2 * x\n")
    files = {
        "test_perf.py": BYTES,
        "test_mixed.py": MIXED,
        "test_broken.py": "import there_is_no_such_module\n",
        "test_exits.py": "import os\nos._exit(3)\n",
        "test_on_a_gpu.py": ON_A_GPU,
        "test_needs_a_gpu.py": NEEDS_A_GPU,
        "test_wrong.py": WRONG,
        "test_skips.py": "import pytest\n@pytest.mark.skip\ndef test_skipped():\n    pass\n",
    }
    for name, text in files.items():
        (folder / name).write_text(textwrap.dedent(text))
    # Upstream's own: tracebacks as Python writes them, and names from the root of the checkout.
    (root / "pytest.ini").write_text("[pytest]\naddopts = -rEfX --tb=native\n")
    return root


def by_name(outcomes):
    return {test.rpartition("::")[2]: one for test, one in outcomes.items()}


def command(checkout, *arguments):
    return CliRunner().invoke(main, [str(checkout), *arguments])


@pytest.fixture(scope="module")
def mixed(checkout):
    kept = []
    found = find_tests(checkout, ["test_mixed.py"])
    result = UpstreamRun(parse("plan"), ("test_mixed.py",))
    for _ in run(result, found, 20, lambda: False):
        kept.append(json.loads(json.dumps(RUN.to_json(result))))
    return result, kept


@pytest.mark.full
def test_outcomes_are_compared_test_by_test(mixed):
    result, _ = mixed
    short = {t.rpartition("::")[2]: (c.how, c.stock, c.policy) for t, c in named(result)}
    assert short == {
        "test_worse": ("worse", "passed", "failed"),
        "test_better": ("better", "failed", "passed"),
        "test_crashes": ("worse", "passed", "crashed"),
        "test_leaves": ("worse", "passed", "crashed"),
        "test_hangs": ("worse", "passed", "timeout"),
        "test_breaks_behind_itself": ("worse", "passed", "error"),
    }
    assert result.got_worse
    assert any("only with stock" in change.message for change in result.changes())


def named(result):
    return [(change.test, change) for change in result.changes()]


@pytest.mark.full
def test_what_comes_behind_a_crash_still_runs(mixed):
    result, _ = mixed
    ended = {name: one.outcome for name, one in by_name(result.governed).items()}
    assert ended["test_after_all_this"] == "passed"
    assert ended["test_fails_both_times"] == "failed"
    assert ended["test_skipped"] == "skipped"
    assert ended["test_policy_is_on_before_the_file"] == "passed"
    assert len(ended) == len(result.stock) == 11


@pytest.mark.full
def test_what_has_ended_is_kept_while_tests_run(mixed):
    """The hanging test takes 20 s, in which the file is written, too; no outcome is lost later."""
    _, kept = mixed
    ended = [(len(one["stock"]), len(one["governed"])) for one in kept]
    assert ended == sorted(ended)
    assert ended.index((11, 0)) < ended.index((11, 11)) and len(set(ended)) > 2
    assert [one["complete"] for one in kept] == [False] * (len(kept) - 1) + [True]


@pytest.mark.full
def test_byte_counts_may_only_go_down(checkout, tmp_path):
    path = tmp_path / "run.json"
    done = command(checkout, "--policy", "plan", "--json", str(path))
    assert done.exit_code == 1, done.output
    data = json.loads(path.read_text())
    changes = {(c["test"].rpartition("::")[2], c["how"]): c for c in data["changes"]}
    assert set(changes) == {("test_fewer", "fewer bytes"), ("test_more", "more bytes")}
    assert changes["test_more", "more bytes"]["is_worse"]
    fewer = changes["test_fewer", "fewer bytes"]
    assert int(fewer["policy"]) < int(fewer["stock"])
    # Another expectation of the same test is looked at all the same, and did not change.
    (test,) = [t for t in data["governed"] if t.endswith("test_fewer")]
    assert len(data["governed"][test]["numbers"]) == 2
    # What is no number is upstream's to compare.
    assert {o["outcome"] for t, o in data["governed"].items() if "text" in t} == {"failed"}


@pytest.mark.full
def test_fewer_bytes_alone_are_fine(checkout):
    done = command(checkout, "-k", "test_fewer", "--policy", "plan")
    assert done.exit_code == 0, done.output
    assert "fewer bytes" in done.output
    assert "plan acted in 1 of 2 graphs" in done.output
    assert "1 changed, 0 of them for the worse" in done.output


def test_a_choice_at_random_promises_nothing_about_bytes():
    counts = [TestOutcome("passed", numbers=((100, found),)) for found in (100, 200)]
    for policy, worse in (("plan:limits=random", False), ("plan:limits=strong", True)):
        result = UpstreamRun(parse(policy), ("f",), stock={"f::t": counts[0]})
        result.governed["f::t"] = counts[1]
        (change,) = result.changes()
        assert (change.how, change.is_worse) == ("more bytes", worse)


@pytest.mark.full
@pytest.mark.parametrize(
    ("policy", "acted"),
    [("plan", "0 of 2"), ("plan:limits=strong", "1 of 2"), ("plan:limits=random", "2 of 2")],
)
def test_what_asks_for_a_gpu_without_need_runs_on_the_cpu(checkout, policy, acted):
    done = command(checkout, "--file", "test_on_a_gpu.py", "--policy", policy)
    assert done.exit_code == 0, done.output
    assert f"{policy}: 2 passed" in done.output
    assert f"{policy} acted in {acted} graphs" in done.output
    hint = "What passes is no test of it. Try limits=strong or limits=random."
    assert (hint in done.output) == (policy == "plan")


@pytest.mark.full
@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("test_needs_a_gpu.py", "2 of 3 tests fail with stock: AssertionError: Torch not compiled"),
        ("test_skips.py", "all of its 1 tests are skipped"),
        ("test_broken.py", "1 of 1 tests fail with stock: ModuleNotFoundError: No module named"),
        ("test_exits.py", "1 of 1 tests fail with stock"),
    ],
)
def test_where_most_tests_fail_with_stock_nothing_is_proved(checkout, file, why):
    done = command(checkout, "--file", file)
    assert done.exit_code == 1, done.output
    assert f"error: {file} proves nothing on cpu: {why}" in done.output
    assert "plan:limits=strong: no test ran" in done.output


@pytest.mark.full
def test_nothing_ran_is_not_well(checkout):
    done = command(checkout, "-k", "no_such_test")
    assert done.exit_code == 1
    assert "stock: no test ran" in done.output


@pytest.mark.full
def test_failures_are_shown_by_the_line_that_names_the_mismatch(checkout, tmp_path):
    path = tmp_path / "run.json"
    done = command(checkout, "--file", "test_wrong.py", "--json", str(path))
    assert done.exit_code == 1
    data = json.loads(path.read_text())
    changes = {c["test"].rpartition("::")[2]: c for c in data["changes"]}
    worse = changes["test_wrong_under_a_policy"]
    assert "Mismatched elements: 1 / 4 (25.0%)" in worse["message"]
    assert worse["message"].splitlines()[-1].endswith("inductor/test_wrong.py:10")
    assert "To execute this test" not in done.output
    assert "Mismatched elements: 1 / 4 (25.0%)" in done.output
    # With both, but not for the same reason.
    other = changes["test_wrong_for_another_reason"]
    assert other["how"] == "fails otherwise"
    assert "KeyError: 'buf1'" in other["policy"]
    assert set(changes) == {"test_wrong_under_a_policy", "test_wrong_for_another_reason"}
    both = {test.rpartition("::")[2] for test in data["failing_with_both"]}
    assert both == {"test_wrong_with_both", "test_wrong_for_another_reason"}
    assert "2 tests fail with both:" in done.output
    assert "Wrong::test_wrong_with_both: AssertionError: Tensor-likes are not" in done.output


def test_addresses_and_numbers_make_no_other_reason():
    one, other = (
        TestOutcome("failed", f"E: <f at 0x7f{x}> took {x}.5 s in /tmp/{x}/x") for x in (1, 22)
    )
    result = UpstreamRun(parse("plan"), ("f",), stock={"f::t": one}, governed={"f::t": other})
    assert result.changes() == []


def test_a_file_that_is_not_there_is_named(checkout):
    with pytest.raises(TargetError, match="no such test file"):
        find_tests(checkout, ["test_none.py"])


def test_a_half_written_line_is_no_event(tmp_path):
    path = tmp_path / "outcomes"
    path.write_text('{"ended": "a", "outcome": "passed"}\n{"ended": "b", "outc')
    assert [event["ended"] for event in events(path)] == ["a"]


class TestStopping:
    """What has ended is kept, what runs is ended, and the run can be gone on with."""

    @pytest.fixture
    def folder(self, tmp_path):
        (tmp_path / "test_slow.py").write_text(SLOW)
        return tmp_path

    def notes(self, folder):
        path = folder / "ran.txt"
        return path.read_text().split("\n")[:-1] if path.exists() else []

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.full
    def test_a_signal_keeps_what_ended_and_resume_goes_on(self, folder, number):
        record = folder / "run.json"
        # Stock on both sides, on a device that hides nothing, so that nothing imports torch.
        arguments = [str(folder), "--file", "test_slow.py", "--policy", "stock"]
        arguments += ["--device", "cuda", "--json", str(record)]
        process = subprocess.Popen(
            [sys.executable, str(BENCHMARKS / "upstream_tests.py"), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        while not (pids := [x for x in self.notes(folder) if x.startswith("pids")]):
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.05)
        process.send_signal(number)
        output, _ = process.communicate(timeout=500)
        assert process.returncode == 128 + number, output
        assert f"kept in {record}; go on with --resume" in output.replace("\n", "")
        assert "test_slow.py under stock:" in output
        assert not any(map(alive, map(int, pids[0].split()[1:])))
        data = json.loads(record.read_text())
        assert not data["complete"]
        assert [one["outcome"] for one in data["stock"].values()] == ["passed", "passed"]
        (folder / "go").touch()
        done = CliRunner().invoke(main, [*arguments, "--resume"])
        assert done.exit_code == 0, done.output
        assert "stock: 4 passed" in done.output
        data = json.loads(record.read_text())
        assert data["complete"] and data["changes"] == []
        assert len(data["stock"]) == len(data["governed"]) == 4
        seen = [x for x in self.notes(folder) if not x.startswith("pids")]
        assert seen == ["first", "second", "slow", "last"] * 2

    @pytest.mark.full
    def test_a_finished_run_is_not_run_again(self, folder):
        (folder / "go").touch()
        found = find_tests(folder, ["test_slow.py"])
        result = UpstreamRun(STOCK, ("test_slow.py",), "cuda")
        # A step for each side, and one whenever what there is has not been kept for long.
        assert len(list(run(result, found, 300, lambda: False))) >= 2
        assert len(result.finished) == 2
        record = folder / "run.json"
        RUN.save(result, record)
        again = upstream_file.resume(record, UpstreamRun(STOCK, ("test_slow.py",), "cuda"))
        assert RUN.to_json(again) == RUN.to_json(result)
        before = self.notes(folder)
        assert not list(run(again, found, 300, lambda: False))
        assert self.notes(folder) == before

    def test_what_was_made_otherwise_is_not_gone_on_with(self, folder):
        record = folder / "run.json"
        RUN.save(UpstreamRun(STOCK, ("a.py",), "cuda"), record)
        for new in (
            UpstreamRun(parse("plan"), ("a.py",), "cuda"),
            UpstreamRun(STOCK, ("a.py",), "cpu"),
            UpstreamRun(STOCK, ("a.py",), "cuda", "test_one"),
        ):
            with pytest.raises(RecordError, match=r"found .*, expected .*"):
                upstream_file.resume(record, new)
        record.write_text('{"schema": "torch-materialize/upstream-tests", "version": 2}')
        with pytest.raises(RecordError, match="damaged"):
            upstream_file.resume(record, UpstreamRun(STOCK, ("a.py",)))

    @pytest.mark.full
    def test_an_import_that_hangs_is_an_error_of_its_file(self, folder):
        (folder / "conftest.py").write_text(
            "from upstream import plugin\nplugin._IMPORT_SECONDS = 1.0\n"
        )
        (folder / "test_slow.py").write_text("import time\ntime.sleep(1000)\n")
        arguments = ["--file", "test_slow.py", "--policy", "stock", "--device", "cuda"]
        done = CliRunner().invoke(main, [str(folder), *arguments])
        assert done.exit_code == 1
        assert "1 of 1 tests fail with stock: pytest ended with exit status 3" in done.output

    def test_resume_needs_a_file(self, folder):
        done = CliRunner().invoke(main, [str(folder), "--resume"])
        assert done.exit_code == 2
        assert "--json FILE" in done.output


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class TestPluginAlone:
    """``pytest -p upstream.plugin`` as somebody may use it by hand."""

    def pytest(self, folder, **variables):
        (folder / "test_nothing.py").write_text("def test_nothing():\n    pass\n")
        environment = {k: v for k, v in os.environ.items() if k != OUTCOMES}
        folders = os.pathsep.join([str(BENCHMARKS), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "upstream.plugin", "."],
            env={**environment, "PYTHONPATH": folders, **variables},
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )

    def test_without_its_variables_it_writes_nothing(self, tmp_path):
        done = self.pytest(tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "1 passed" in done.stdout

    def test_a_folder_is_no_file_to_write_to(self, tmp_path):
        for name in (tmp_path, tmp_path / "none" / "outcomes"):
            done = self.pytest(tmp_path, **{OUTCOMES: str(name)})
            assert done.returncode == 4
            assert f"{OUTCOMES}={name}: expected a file to write to, found" in done.stderr
