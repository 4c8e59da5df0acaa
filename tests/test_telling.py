"""What real compiles leave behind: records, log lines, trace entries."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import torch_materialize as tm
from reported import explanation
from torch_materialize.core.story import Refusal
from torch_materialize.errors import RecordError
from torch_materialize.inductor.explain import announce
from torch_materialize.results.folder import load_any

pytestmark = pytest.mark.e2e


def chain(x, y):
    residual = x
    for _ in range(3):
        residual = residual + torch.sin(y)
        y = torch.softmax(residual, -1) @ x.T[:, : x.shape[1]]
    return y, residual.sum(-1)


def compiled(dynamo, size=64):
    x, y = torch.randn(256, size), torch.randn(256, size)
    return torch.compile(chain, options=tm.options("plan"))(x, y)


def test_a_program_leaves_one_record_per_graph(dynamo, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_MATERIALIZE_RECORD", str(tmp_path / "records"))
    compiled(dynamo)
    dynamo.reset()
    compiled(dynamo, size=128)
    files = sorted((tmp_path / "records").iterdir())
    assert len(files) == 2
    assert all(file.name.endswith("-inference.json.gz") for file in files)
    joined = load_any(tmp_path / "records")
    assert len(joined.graphs) == 2
    assert joined.device == "cpu"
    assert joined.traffic("plan").bytes <= joined.traffic("stock").bytes
    assert any(one.open for _, one in joined.decisions())


@pytest.mark.full
def test_forward_and_backward_are_told_apart(dynamo, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_MATERIALIZE_RECORD", str(tmp_path))
    x = torch.randn(64, 64, requires_grad=True)
    out = torch.compile(chain, options=tm.options("plan"))(x, torch.randn(64, 64))
    out[0].sum().backward()
    kinds = [graph.kind for graph in load_any(tmp_path).graphs]
    assert kinds == ["forward", "backward"]


@pytest.mark.full
def test_a_folder_that_cannot_be_written_costs_the_record_alone(dynamo, tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("TORCH_MATERIALIZE_RECORD", str(blocked))
    monkeypatch.setenv("TORCH_MATERIALIZE_STRICT", "0")
    x, y = torch.randn(8, 8), torch.randn(8, 8)
    got = torch.compile(chain, options=tm.options("plan"))(x, y)
    torch.testing.assert_close(got, chain(x, y))


@pytest.mark.full
def test_records_of_other_settings_are_not_joined(dynamo, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_MATERIALIZE_RECORD", str(tmp_path))
    compiled(dynamo)
    dynamo.reset()
    x, y = torch.randn(8, 8), torch.randn(8, 8)
    torch.compile(chain, options=tm.options("plan", numerics="stock"))(x, y)
    with pytest.raises(RecordError, match="differ in policies"):
        load_any(tmp_path)


def test_the_plan_is_logged_and_at_debug_what_it_saves(dynamo, caplog):
    with caplog.at_level(logging.DEBUG, "torch_materialize"):
        compiled(dynamo)
    lines = [record.getMessage() for record in caplog.records]
    assert any("trial lowerings" in line for line in lines), lines
    assert "plan: all: 0 B" in lines  # stock is kept here
    (planned,) = (x.planned for x in caplog.records if hasattr(x, "planned"))
    assert 0 < planned["bytes"] == planned["stock_bytes"] and planned["seconds"] > 0


def test_the_log_names_decisions_and_refusals(caplog):
    found = explanation()
    graph = replace(found.graphs[0], saves={"plan": {"sum_1": 5, "sum_2": 2}})
    side = graph.sides["plan"].graph
    refusal = Refusal("peak", 799, 1000, 107, 105, 100)
    outcome = SimpleNamespace(
        stock=side, graph=side, bound=None, left_out=0, store=None, rounds=1, seconds=0.0
    )
    outcome.marked, outcome.refused = frozenset({"sum_3"}), (refusal,)
    with caplog.at_level(logging.DEBUG, "torch_materialize"):
        announce._log(
            SimpleNamespace(nodes=1, described="1 node", calls=1),
            outcome,
            lambda: replace(found, graphs=(graph,)),
        )
    lines = [record.getMessage() for record in caplog.records]
    assert f"plan: {refusal.sentence()}" in lines
    assert any("stock's choice, and 1 tensor materialized" in line for line in lines)
    assert any("sum_1 and 1 alike" in line and "saves 7 B against" in line for line in lines), lines


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


PROGRAM = textwrap.dedent(
    """
    import torch, torch_materialize as tm
    def f(x, y):
        a = x + torch.sin(y)
        return torch.softmax(a, -1), torch.softmax(a * 2, -1)
    torch.compile(f, options=tm.options("plan"))(torch.randn(64, 64), torch.randn(64, 64))
    """
)


@pytest.mark.full
def test_torch_logs_and_traces(tmp_path):
    said = run(PROGRAM, TORCH_LOGS="torch_materialize", TORCH_TRACE=str(tmp_path))
    assert "trial lowerings" in said
    (trace,) = tmp_path.iterdir()
    entries = [
        json.loads(line[line.index("{") :])
        for line in trace.read_text().splitlines()
        if "torch_materialize_plan" in line
    ]
    assert entries[0]["artifact"] == {"name": "torch_materialize_plan", "encoding": "json"}
    assert entries[0]["has_payload"]


@pytest.mark.full
def test_set_logs_knows_the_short_name():
    said = run(
        "import torch, logging\n"
        "import torch_materialize.inductor.explain.announce\n"
        "torch._logging.set_logs(modules={'materialize': logging.INFO})\n" + PROGRAM
    )
    assert "trial lowerings" in said


@pytest.mark.full
def test_without_listeners_nothing_is_explained():
    run(
        "from torch_materialize.inductor.explain import announce\n"
        "def nobody(*_, **__):\n"
        "    raise AssertionError('nobody listens')\n"
        "announce.explained = nobody\n" + PROGRAM
    )
