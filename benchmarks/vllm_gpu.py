"""The public measurement of vLLM's full graph, on a machine with a GPU: one table.

    python benchmarks/run.py vllm-gpu --folder FOLDER            # everything, about two hours
    python benchmarks/run.py vllm-gpu --folder FOLDER --dry      # only print the commands
    python benchmarks/run.py vllm-gpu --folder FOLDER --table    # the table of what is there

Needs vLLM, this package beside it, the model's weights, and for gsm8k `pip install "lm-eval[api]"`.
Latency is `vllm bench latency`, Llama-3.1-8B, batch 1, output 1 (vLLM issue 27828); serving is
`vllm bench serve` at a low and a high rate; accuracy is gsm8k by lm-eval. Every build has compile
caches of its own in FOLDER. A result that is there already is not measured again; what fails is
named, and the rest goes on (exit status 1).
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tables import head, line

WHOLE = {"use_inductor_graph_partition": True}
#: Build -> vLLM's compilation config and the policy that governs it.
BUILDS: dict[str, tuple[dict[str, Any], str]] = {
    "piecewise": ({}, "stock"),
    "whole": (WHOLE, "stock"),
    "whole+plan": (WHOLE, "plan"),
    "piecewise+plan": ({}, "plan"),
}
INPUTS = (8192, 1024)
#: Load -> requests a second, and how many of them.
LOADS = {"low": (1, 60), "high": (32, 1000)}
READY_SECONDS = 1800


@dataclass(frozen=True)
class VllmCommand:
    """One command and what is read of the file that it writes."""

    name: str
    command: tuple[str, ...]
    result: Path
    read: Callable[[Any], dict[str, float]]


@dataclass(frozen=True)
class Build:
    """One way of compiling, in a folder of its own."""

    name: str
    folder: Path
    model: str
    port: int

    @property
    def compilation(self) -> str:
        return json.dumps(BUILDS[self.name][0])

    @property
    def environment(self) -> dict[str, str]:
        cache = str(self.folder / "cache")
        return {"TORCH_MATERIALIZE": BUILDS[self.name][1], "VLLM_CACHE_ROOT": cache}

    def latencies(self) -> Iterator[VllmCommand]:
        for tokens in INPUTS:
            result = self.folder / f"latency-{tokens}.json"
            command = ["vllm", "bench", "latency", "--model", self.model]
            command += ["--input-len", str(tokens), "--output-len", "1", "--batch-size", "1"]
            command += ["--num-iters-warmup", "10", "--num-iters", "50"]
            command += ["--max-model-len", "16384", "--max-num-batched-tokens", "8192"]
            command += ["--no-enable-prefix-caching", "--output-json", str(result)]
            command += ["--compilation-config", self.compilation]
            yield VllmCommand(f"latency {tokens} s", tuple(command), result, _latency)

    def server(self) -> tuple[str, ...]:
        command = ["vllm", "serve", self.model, "--port", str(self.port)]
        command += ["--max-model-len", "16384", "--compilation-config", self.compilation]
        return (*command, "--no-enable-prefix-caching")

    def served(self) -> Iterator[VllmCommand]:
        """What is asked of a running server."""
        for load, (rate, prompts) in LOADS.items():
            result = self.folder / f"serve-{load}.json"
            command = ["vllm", "bench", "serve", "--model", self.model, "--port", str(self.port)]
            command += ["--dataset-name", "random", "--random-input-len", "1024"]
            command += ["--random-output-len", "128", "--num-prompts", str(prompts)]
            command += ["--request-rate", str(rate), "--ignore-eos", "--seed", "0", "--save-result"]
            command += ["--result-dir", str(self.folder), "--result-filename", result.name]
            yield VllmCommand(f"serve {load}", tuple(command), result, _serve)
        result = self.folder / "gsm8k.json"
        url = f"http://127.0.0.1:{self.port}/v1/completions"
        how = f"model={self.model},base_url={url},num_concurrent=32,tokenized_requests=False"
        command = ["lm_eval", "--model", "local-completions", "--model_args", how]
        command += ["--tasks", "gsm8k", "--num_fewshot", "5", "--output_path", str(result)]
        yield VllmCommand("gsm8k", tuple(command), result, _gsm8k)


def _latency(data: Any) -> dict[str, float]:
    return {"mean": data["avg_latency"], "median": data["percentiles"]["50"]}


def _serve(data: Any) -> dict[str, float]:
    names = ("output_throughput", "mean_ttft_ms", "median_tpot_ms")
    return {name: data[name] for name in names}


def _gsm8k(data: Any) -> dict[str, float]:
    return {"exact_match": data["results"]["gsm8k"]["exact_match,strict-match"]}


def shown(command: tuple[str, ...], environment: dict[str, str]) -> str:
    """A command as one would type it."""
    before = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
    return f"{before} {shlex.join(command)}"


def written(step: VllmCommand) -> Path | None:
    """The step's result; lm-eval puts the time into the name of the file."""
    if step.result.is_file():
        return step.result
    stem = step.result.stem
    found = sorted([*step.result.parent.glob(f"{stem}_*.json"), *step.result.glob("**/*.json")])
    return found[-1] if found else None


def run(step: VllmCommand, environment: dict[str, str]) -> bool:
    """Runs one step unless its result is there; False when it failed."""
    if written(step):
        return True
    print(f"== {step.name}: {shown(step.command, environment)}", flush=True)
    done = subprocess.run(step.command, env={**os.environ, **environment}, check=False)
    if done.returncode or not written(step):
        print(f"{step.name} failed: exit {done.returncode}, {step.result}", file=sys.stderr)
        return False
    return True


@contextlib.contextmanager
def serving(build: Build) -> Iterator[None]:
    """A server, ready; its lines are in ``server.log``.

    Raises:
        RuntimeError: it ended, or was not ready in time.
    """
    print(f"== server: {shown(build.server(), build.environment)}", flush=True)
    log = build.folder / "server.log"
    with log.open("w") as out:
        started = subprocess.Popen(
            build.server(), env={**os.environ, **build.environment}, stdout=out, stderr=out
        )
    try:
        _wait(started, build.port, log)
        yield
    finally:
        started.terminate()
        try:
            started.wait(60)
        except subprocess.TimeoutExpired:
            started.kill()


def _wait(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return
        time.sleep(2)
    raise RuntimeError(f"the server was not ready; see {log}")


def measure(build: Build) -> bool:
    """Everything of one build; False when something failed."""
    build.folder.mkdir(parents=True, exist_ok=True)
    fine = [run(step, build.environment) for step in build.latencies()]
    if all(written(step) for step in build.served()):
        return all(fine)
    try:
        with serving(build):
            fine += [run(step, {}) for step in build.served()]
    except RuntimeError as error:
        print(f"{build.name}: {error}", file=sys.stderr)
        return False
    return all(fine)


def table(builds: list[Build]) -> str:
    """All results, builds side by side, in Markdown; what was not measured is a dash."""
    columns: list[dict[str, float]] = []
    for build in builds:
        column = {}
        for step in (*build.latencies(), *build.served()):
            path = written(step)
            values = step.read(json.loads(path.read_text())) if path else {}
            column |= {f"{step.name} {name}": value for name, value in values.items()}
        columns.append(column)
    names = list(dict.fromkeys(name for column in columns for name in column))
    lines = [*head("", *(build.name for build in builds))]
    for name in names:
        cells = [f"{column[name]:.4f}" if name in column else "-" for column in columns]
        lines.append(line([name, *cells]))
    return "\n".join(lines)


def main(chosen: Any) -> int:
    names = chosen.build or list(BUILDS)
    builds = [Build(name, chosen.folder / name, chosen.model, chosen.port) for name in names]
    if chosen.dry:
        for build in builds:
            for step in build.latencies():
                print(shown(step.command, build.environment))
            print(shown(build.server(), build.environment), "&")
            for step in build.served():
                print(shown(step.command, {}))
        return 0
    failed = [] if chosen.table else [build for build in builds if not measure(build)]
    print(table(builds))
    return 1 if failed else 0
