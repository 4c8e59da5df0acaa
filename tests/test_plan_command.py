"""The command `plan`: files that a compile uses, a check for CI that names the line, a diff."""

from __future__ import annotations

import json
import logging
import re
import textwrap
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

import torch_materialize as tm
from torch_materialize.cli.main import main
from torch_materialize.jobs import plan as job
from torch_materialize.results.plan_claims import (
    CLAIMS,
    Claims,
    GraphClaim,
    LineBytes,
    claims_path,
    growths,
)
from torch_materialize.results.plan_file import PLAN_FILE, Moved

MODEL = """
    import torch

    def block(x, a, b):
        first = x + a
        second = first.softmax(-1) + first + b
        return second.softmax(-1), second.mean(-1), (first * second).sum(0)

    def model():
        return block, tuple(torch.empty(4, 8) for _ in range(3))
"""
STRONG = ["--policy", "plan:limits=strong", "--device", "cpu"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*words: str, status: int = 0) -> str:
        done = CliRunner().invoke(main, ["plan", *words], catch_exceptions=False)
        assert done.exit_code == status, done.output
        return " ".join(done.output.split())

    def write(text: str) -> None:
        (tmp_path / "model.py").write_text(textwrap.dedent(text))

    run.write = write
    write(MODEL)
    return run


@pytest.mark.e2e
def test_a_check_passes_until_a_change_moves_more_and_names_the_line(run, tmp_path):
    assert "x0.7" in run("model.py:model", *STRONG, "-o", "plans")
    (path,) = (tmp_path / "plans").glob("*.plan.json")
    plan = PLAN_FILE.load(path)
    assert path.name == f"{plan.key}.plan.json"
    assert {one.source for one in plan.decisions} <= {f"model.py:{n}" for n in (5, 6, 7)}
    claims = CLAIMS.load(tmp_path / "plans" / "model-model-cpu.claims.json")
    assert sum(line.bytes for line in claims.graphs[0].lines) == plan.plan.bytes
    # Lines that only move are the same lines.  Python sees a file as changed where its size or its
    # second of writing does: no two of these texts are of one length.
    run.write(MODEL.replace("    def block", "    # a longer remark\n\n    def block"))
    assert "no more bytes" in run("model.py:model", *STRONG, "--check", "plans")
    run.write(MODEL.replace("second.mean(-1)", "second.mean(-1), second * 2"))
    said = run("model.py:model", *STRONG, "--check", "plans", status=1)
    assert "model.py:7" in said
    assert "128 B more return second.softmax(-1), second.mean(-1), second * 2" in said
    assert "-o in place of --check" in said


@pytest.mark.e2e
def test_claims_of_other_options_are_an_error_and_no_regression(run):
    run("model.py:model", *STRONG, "-o", "plans")
    wrong = run("model.py:model", "--device", "cpu", "--check", "plans", status=1)
    assert "policy: claimed plan:limits=strong, now plan" in wrong
    there = ["--device", "h200", "--check", "plans"]
    assert "there are no claims" in run("model.py:model", *there, status=1)


@pytest.mark.e2e
def test_a_diff_is_by_line(run, tmp_path):
    run("model.py:model", *STRONG, "-o", "a")
    run("model.py:model", *STRONG, "-o", "b")
    assert "decide alike" in run("--diff", "a", "b")
    (path,) = (tmp_path / "b").glob("*.plan.json")
    plan = PLAN_FILE.load(path)
    dropped = plan.decisions[0]
    PLAN_FILE.save(replace(plan, decisions=plan.decisions[1:]), path)
    said = run("--diff", "a", "b")
    assert dropped.source in said
    assert "1 realized" in said
    assert "inlined" in said
    for path in (tmp_path / "b").iterdir():
        path.unlink()
    assert "expected plan files" in run("--diff", "a", "b", status=1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name TARGET"),
        (["gpt2"], "name TARGET"),
        (["gpt2", "--policy", "traffic", "-o", "p"], "plan files are of one policy"),
        (
            ["gpt2", "--policy", "plan,plan:numerics=eager", "-o", "p"],
            "plan files are of one policy",
        ),
        (["gpt22", "-o", "p"], "Did you mean 'gpt2'?"),
        (["gpt2", "--device", "h2000", "-o", "p"], "h200"),
        (["gpt2", "--diff", ".", "."], "takes no TARGET"),
    ],
)
def test_a_wrong_word_is_refused_before_torch_is_loaded(run, words, said):
    done = CliRunner().invoke(main, ["plan", *words])
    assert done.exit_code in (1, 2)
    assert said in " ".join(done.output.split())
    assert "Traceback" not in done.output


# Claims, without a compile.


REGION = """
    import torch
    from torch.compiler import nested_compile_region

    @nested_compile_region
    def layer(x, a):
        first = x + a
        second = first.softmax(-1) + first + a.tanh()
        return second.softmax(-1) * second.mean(-1, keepdim=True) + (first * second).sum(0)

    def stack(x, a):
        for _ in range({layers}):
            x = layer(x, a)
        return x

    def model():
        return stack, tuple(torch.empty(4, 8) for _ in range(2))
"""


@pytest.mark.e2e
@pytest.mark.usefixtures("dynamo")
def test_a_region_is_named_used_and_counted_in_each_call(run, tmp_path, caplog):
    run.write(REGION.format(layers=3))
    said = run("model.py:model", *STRONG, "-o", "plans")
    assert "inference body of" in said
    assert "invoke_subgraph (3 calls)" in said
    spaces = {}
    exec(textwrap.dedent(REGION.format(layers=5)), spaces)
    with caplog.at_level(logging.INFO, "torch_materialize"), torch.no_grad():
        options = tm.options("plan:limits=strong", plans=tmp_path / "plans")
        torch.compile(spaces["stack"], options=options)(torch.ones(4, 8), torch.ones(4, 8))
    # The body is the same graph, however often it is called.
    assert re.search(r"the body of invoke_subgraph, called 5 times, .* as plan file", caplog.text)
    run("model.py:model", *STRONG, "--check", "plans")
    run.write(REGION.format(layers=4))
    said = run("model.py:model", *STRONG, "--check", "plans", status=1)
    assert "inference body of invoke_subgraph (4 calls): moves" in said
    assert "model.py:" in said
    run("model.py:model", *STRONG, "-o", "more")
    run.write(REGION.format(layers=3).replace("first.softmax(-1)", "first.sin()"))
    run("model.py:model", *STRONG, "-o", "others")
    assert "decide alike" in run("--diff", "plans", "more")
    assert "inference body of invoke_subgraph" in run("--diff", "plans", "others")


def claims(**lines: int) -> Claims:
    found = tuple(
        LineBytes(f"m.py:{n}", text, size) for n, (text, size) in enumerate(lines.items())
    )
    graph = GraphClaim("forward", 0, "k", Moved(sum(lines.values()), 1), found)
    return Claims("m.py:f", "cpu", "plan", (graph,))


def test_growth_is_what_lines_move_more_most_first():
    (one,) = growths(claims(a=10, b=10, c=10), claims(c=4, b=12, a=30, d=1))
    assert (one.claimed, one.moved) == (30, 47)
    assert [(line.text, line.bytes) for line in one.lines] == [("a", 20), ("b", 2), ("d", 1)]
    assert not list(growths(claims(a=10, b=10), claims(a=20)))  # elsewhere, but no more


def test_a_line_that_was_changed_is_held_against_what_it_was():
    (one,) = growths(claims(a=10, b=10, c=10), claims(a=10, changed=15, c=10))
    assert [(line.text, line.bytes) for line in one.lines] == [("changed", 5)]


def test_a_new_graph_is_all_growth():
    more = claims(a=10)
    second = replace(more.graphs[0], index=1)
    (one,) = growths(more, replace(more, graphs=(*more.graphs, second)))
    assert (one.graph.index, one.claimed, one.moved) == (1, 0, 10)


def test_a_body_counts_in_each_call():
    def called(times, claim):
        (graph,) = claim.graphs
        return replace(claim, graphs=(replace(graph, caller="invoke_subgraph", calls=times),))

    before = called(3, claims(a=10, b=5))
    assert not list(growths(before, called(3, claims(a=10, b=5))))
    assert not list(growths(before, called(2, claims(a=12, b=8))))
    (one,) = growths(before, called(4, claims(a=9, b=5)))
    assert (one.claimed, one.moved) == (45, 56)
    assert [(line.text, line.bytes) for line in one.lines] == [("a", 6), ("b", 5)]
    # The graph around it is another one, whatever moves in both.
    one, other = growths(claims(a=1), replace(before, graphs=claims(a=2).graphs + before.graphs))
    assert [(x.graph.caller, x.claimed, x.moved) for x in (one, other)] == [
        ("", 1, 2),
        ("invoke_subgraph", 0, 45),
    ]


def test_names_of_claims_are_for_people(tmp_path):
    path = claims_path(tmp_path, "dir/model.py:f", "h200", training=True)
    assert path == tmp_path / "model-f-training-h200.claims.json"
    assert claims_path(tmp_path, "vllm:llama", "h200", training=False).name.startswith(
        "vllm-llama-"
    )


def test_claims_are_read_as_they_were_written():
    one = claims(a=1)
    assert CLAIMS.from_json(json.loads(json.dumps(CLAIMS.to_json(one)))) == one


def test_the_policy_of_plan_files_is_plan_unless_one_is_named():
    assert str(job.the_policy([])) == "plan"
    assert str(job.the_policy(["plan:numerics=eager"])) == "plan:numerics=eager"
