"""``upstream-tests`` on a small checkout of our own making; PyTorch's own is not at hand."""

from __future__ import annotations

import json
import textwrap

import pytest
from click.testing import CliRunner

from torch_materialize.cli.main import main
from torch_materialize.core.policy import parse
from torch_materialize.errors import TargetError
from torch_materialize.pytest_plugin import read_events
from torch_materialize.upstream import find_tests, run, to_json

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


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    root = tmp_path_factory.mktemp("pytorch")
    folder = root / "test" / "inductor"
    folder.mkdir(parents=True)
    (root / "torch").mkdir()
    (root / "torch" / "__init__.py").write_text("raise ImportError('the sources')")
    (root / "test" / "inductor_helpers.py").write_text("def twice(x):\n    return 2 * x\n")
    (folder / "test_perf.py").write_text(BYTES)
    (folder / "test_mixed.py").write_text(textwrap.dedent(MIXED))
    (folder / "test_broken.py").write_text("import there_is_no_such_module\n")
    (folder / "test_exits.py").write_text("import os\nos._exit(3)\n")
    return root


@pytest.fixture(scope="module")
def mixed(checkout):
    return run(find_tests(checkout, ["test_mixed.py"]), parse("plan"), timeout=10)


def test_outcomes_are_compared_test_by_test(mixed):
    short = {t.rpartition("::")[2]: (c.how, c.stock, c.policy) for t, c in named(mixed)}
    assert short == {
        "test_worse": ("worse", "passed", "failed"),
        "test_better": ("better", "failed", "passed"),
        "test_crashes": ("worse", "passed", "crashed"),
        "test_leaves": ("worse", "passed", "crashed"),
        "test_hangs": ("worse", "passed", "timeout"),
        "test_breaks_behind_itself": ("worse", "passed", "error"),
    }
    assert mixed.got_worse
    assert any("only with stock" in change.message for change in mixed.changes())


def named(result):
    return [(change.test, change) for change in result.changes()]


def test_what_comes_behind_a_crash_still_runs(mixed):
    ended = {test.rpartition("::")[2]: one.outcome for test, one in mixed.governed.items()}
    assert ended["test_after_all_this"] == "passed"
    assert ended["test_fails_both_times"] == "failed"
    assert ended["test_skipped"] == "skipped"
    assert ended["test_policy_is_on_before_the_file"] == "passed"
    assert len(ended) == len(mixed.stock) == 11
    json.dumps(to_json(mixed))


def test_byte_counts_may_only_go_down(checkout, tmp_path):
    path = tmp_path / "run.json"
    done = CliRunner().invoke(
        main, ["upstream-tests", str(checkout), "--policy", "plan", "--json", str(path)]
    )
    assert done.exit_code == 1, done.output
    data = json.loads(path.read_text())
    changes = {(c["test"].rpartition("::")[2], c["how"]): c for c in data["changes"]}
    assert set(changes) == {("test_fewer", "fewer bytes"), ("test_more", "more bytes")}
    fewer = changes["test_fewer", "fewer bytes"]
    assert int(fewer["policy"]) < int(fewer["stock"])
    # Another expectation of the same test is looked at all the same, and did not change.
    (test,) = [t for t in data["governed"] if t.endswith("test_fewer")]
    assert len(data["governed"][test]["numbers"]) == 2
    # What is no number is upstream's to compare.
    assert {o["outcome"] for t, o in data["governed"].items() if "text" in t} == {"failed"}


def test_fewer_bytes_alone_are_fine(checkout):
    done = CliRunner().invoke(main, ["upstream-tests", str(checkout), "-k", "test_fewer"])
    assert done.exit_code == 0, done.output
    assert "fewer bytes" in done.output
    assert "1 changed, 0 of them for the worse" in done.output


@pytest.mark.parametrize("file", ["test_broken.py", "test_exits.py"])
def test_a_file_that_does_not_start_is_an_error_on_both_sides(checkout, file):
    result = run(find_tests(checkout, [file]), parse("plan"))
    assert [one.outcome for one in result.stock.values()] == ["error"]
    assert result.changes() == []


def test_nothing_ran_is_not_well(checkout):
    done = CliRunner().invoke(main, ["upstream-tests", str(checkout), "-k", "no_such_test"])
    assert done.exit_code == 1
    assert "stock: no test ran" in done.output


def test_a_file_that_is_not_there_is_told(checkout):
    with pytest.raises(TargetError, match="no such test file"):
        find_tests(checkout, ["test_none.py"])


def test_a_half_written_line_is_no_event(tmp_path):
    path = tmp_path / "outcomes"
    path.write_text('{"ended": "a", "outcome": "passed"}\n{"ended": "b", "outc')
    assert [event["ended"] for event in read_events(path)] == ["a"]
