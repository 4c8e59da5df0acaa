"""Starts engines in processes of their own, with a time limit and caches of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# Seconds until an engine is killed, and then killed for good: a failing one can hang.
LIMIT, GRACE = 550, 20
TOKENS = 24


def environment(cache: Path, **more: str) -> dict[str, str]:
    """A process's environment with caches of its own and every surprise of ours an error."""
    ours = ("TORCH_MATERIALIZE", "VLLM_PLUGINS", "TORCHINDUCTOR_FX_GRAPH_CACHE")
    kept = {k: v for k, v in os.environ.items() if k not in (*ours, "TORCHINDUCTOR_AUTOGRAD_CACHE")}
    return {
        **kept,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CACHE_ROOT": str(cache),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TORCH_MATERIALIZE_STRICT": "1",
        "OMP_NUM_THREADS": "1",
        **more,
    }


def limited(*command: str) -> list[str]:
    """A command of this Python that is killed when it takes too long."""
    return ["timeout", "-k", str(GRACE), str(LIMIT), sys.executable, "-W", "ignore", *command]


def launch(model: Path, cut: str, cache: Path, **more: str) -> dict:
    """The answer of one run of ``engine.py``."""
    request = {"model": str(model), "cut": cut, "tokens": TOKENS}
    done = subprocess.run(
        limited(str(HERE / "engine.py"), json.dumps(request)),
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
        env=environment(cache, VLLM_ENABLE_V1_MULTIPROCESSING="0", **more),
    )
    answers = [x for x in done.stdout.splitlines() if x.startswith("ANSWER ")]
    assert answers, f"exit {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return json.loads(answers[0].removeprefix("ANSWER "))


def started(model: Path, cut: str, cache: Path, **more: str) -> subprocess.Popen[str]:
    """An engine as a user starts it, in a session of its own that sets up no logging."""
    request = {"model": str(model), "cut": cut, "tokens": 1, "as_users_do": True}
    return subprocess.Popen(
        limited(str(HERE / "engine.py"), json.dumps(request)),
        cwd=HERE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=environment(cache, VLLM_ENABLE_V1_MULTIPROCESSING="0", **more),
    )


def said(model: Path, cut: str, cache: Path, **more: str) -> str:
    """What a user sees who starts an engine in a process that sets up no logging."""
    process = started(model, cut, cache, **more)
    output, _ = process.communicate()
    assert process.returncode == 0, output[-6000:]
    return output


def note(folder: Path, **what: object) -> None:
    """Keeps an answer for ``benchmarks/run.py vllm-answers``."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "answers.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(what) + "\n")
