"""The recipe for a GPU: its commands, and the table of results that are there."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import run
import vllm_gpu


def test_dry_prints_every_command_and_writes_nothing(tmp_path, capsys):
    folder = tmp_path / "out"
    assert run.main(["vllm-gpu", "--folder", str(folder), "--dry"]) == 0
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == len(vllm_gpu.BUILDS) * (2 + 1 + 3)
    assert not folder.exists()
    latency = [line for line in lines if "latency" in line]
    assert {line[line.index("--input-len") + 1] for line in latency} == {"8192", "1024"}
    assert all(line[line.index("--output-len") + 1] == "1" for line in latency)
    ours = [line for line in latency if "TORCH_MATERIALIZE=plan" in line]
    assert len(ours) == 4 and len(latency) == 8
    whole = [json.loads(line[line.index("--compilation-config") + 1]) for line in latency]
    assert sum(config == vllm_gpu.WHOLE for config in whole) == 4
    # A build never meets another's artifacts, though their keys would keep them apart.
    assert len({line[1] for line in latency}) == len(vllm_gpu.BUILDS)


def test_the_table_is_made_of_what_is_there(tmp_path, capsys):
    one = tmp_path / "piecewise"
    one.mkdir()
    measured = {"avg_latency": 1.5, "percentiles": {"50": 1.25}}
    (one / "latency-8192.json").write_text(json.dumps(measured))
    accuracy = {"results": {"gsm8k": {"exact_match,strict-match": 0.75}}}
    (one / "gsm8k_2026-11-25T00.json").write_text(json.dumps(accuracy))
    assert run.main(["vllm-gpu", "--folder", str(tmp_path), "--table"]) == 0
    text = capsys.readouterr().out
    assert "| latency 8192 s mean | 1.5000 | - | - | - |" in text
    assert "| gsm8k exact_match | 0.7500 | - | - | - |" in text


def test_what_fails_is_named_and_the_rest_goes_on(tmp_path, monkeypatch, capfd):
    def failing(self):
        for name in ("first", "second"):
            yield vllm_gpu.VllmCommand(
                name, ("false",), tmp_path / f"{name}.json", vllm_gpu._latency
            )

    monkeypatch.setattr(vllm_gpu.Build, "latencies", failing)
    monkeypatch.setattr(vllm_gpu.Build, "server", lambda self: ("false",))
    assert run.main(["vllm-gpu", "--folder", str(tmp_path), "--build", "whole"]) == 1
    said = capfd.readouterr().err
    assert "first failed" in said and "second failed" in said
    assert "the server was not ready" in said


@pytest.mark.parametrize("name", vllm_gpu.BUILDS)
def test_builds_are_stock_or_plan(name):
    assert vllm_gpu.BUILDS[name][1] in ("stock", "plan")
