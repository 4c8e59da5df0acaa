"""Every command and program of the README and the docs runs, from the text itself.

The blocks of a page run from top to bottom in one folder, as a reader would type them.  A block
with a title is a file, which later ones use.  What cannot run here is in ``ELSEWHERE``.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

import torch_materialize as tm
from texts import PAGES, ROOT, Block, blocks, inline, name_of
from tiers import but
from torch_materialize.cli.main import main

#: Seconds of one command or program, on a machine that does much else.
LIMIT = 600

_MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
_CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def _in_ci(command: str) -> bool:
    return re.search(rf"^{re.escape(command)}( |$)", _CI, re.MULTILINE) is not None


def _never(_command: str) -> bool:
    return False


def _with_vllm(_command: str) -> bool:
    return importlib.util.find_spec("vllm") is not None


# Reason -> whether the command could run here after all, or whether what it claims is not so.
_REASONS: dict[str, Callable[[str], bool]] = {
    "a stage of .ci/run, or what runs this test": lambda command: not _in_ci(command),
    "changes the environment that runs this test; dev/venv.sh installs the same": _never,
    "needs vLLM; tests/with_vllm compiles the same targets": _with_vllm,
    "writes into the checkout; another test compares what it writes": _never,
    "takes minutes to hours": _never,
    "takes files or a checkout that the reader has": _never,
}
_STAGE, _INSTALLS, _VLLM, _DRAWS, _LONG, _FILES = _REASONS

#: (page, command) -> why it does not run here.
ELSEWHERE = {
    ("README.md", "make compare"): _STAGE,
    ("README.md", "make test"): _STAGE,
    ("README.md", 'pip install ".[models]"'): _INSTALLS,
    ("docs/tutorial.md", "pip install ."): _INSTALLS,
    ("docs/vllm.md", "pip install ."): _INSTALLS,
    (
        "docs/vllm.md",
        "vllm serve MODEL --compilation-config '{\"use_inductor_graph_partition\": true}'",
    ): _VLLM,
    (
        "docs/vllm.md",
        "torch-materialize compare vllm:llama-3.1-8b --device h200 --tokens 8192",
    ): _VLLM,
    (
        "docs/vllm.md",
        "torch-materialize compare vllm:llama-3.1-8b:piecewise --device h200 --tokens 8192",
    ): _VLLM,
    (
        "docs/vllm.md",
        "torch-materialize compare vllm:FOLDER_WITH_CONFIG_JSON --layers 4",
    ): _VLLM,
    (
        "docs/reinforcement.md",
        "TORCH_MATERIALIZE=plan:numerics=eager vllm serve MODEL "
        '--compilation-config \'{"custom_ops": ["none"]}\'',
    ): _VLLM,
    ("CONTRIBUTING.md", "make test"): _STAGE,
    ("CONTRIBUTING.md", 'make test ARGS="tests/test_core.py -x"'): _LONG,
    ("CONTRIBUTING.md", "make test-full"): _STAGE,
    ("CONTRIBUTING.md", "make lint"): _STAGE,
    ("CONTRIBUTING.md", "make docs"): _STAGE,
    ("CONTRIBUTING.md", "make contract TORCH=2.12.1"): _LONG,
    ("CONTRIBUTING.md", "make vllm-test"): _STAGE,
    ("CONTRIBUTING.md", "make bench"): _LONG,
    ("CONTRIBUTING.md", "bash .ci/run"): _LONG,
    ("CONTRIBUTING.md", "python benchmarks/run.py fuzz compiled --minutes 10"): _LONG,
    ("CONTRIBUTING.md", "python benchmarks/run.py gpu --json FILE"): _LONG,
    ("CONTRIBUTING.md", "python benchmarks/run.py predict FILE"): _FILES,
    ("CONTRIBUTING.md", "python dev/pictures.py"): _DRAWS,
    ("CONTRIBUTING.md", "python benchmarks/tables.py --pages"): _DRAWS,
    ("CONTRIBUTING.md", "python benchmarks/upstream_tests.py CHECKOUT"): _FILES,
}

#: What a command must print, beside ending with 0.
PRINTS = {
    ("README.md", "TORCH_LOGS=torch_materialize python use.py"): "plan: ",
    ("docs/tutorial.md", "TORCH_LOGS=torch_materialize python use.py"): "largest difference",
    ("docs/whole-program.md", "TORCH_MATERIALIZE=plan python program.py"): "policy: plan",
    ("docs/whole-program.md", "TORCH_MATERIALIZE=off python program.py"): "policy: stock",
    ("docs/plans.md", "TORCH_LOGS=torch_materialize python use.py"): "as plan file",
    ("docs/plans.md", "torch-materialize plan --diff plans plans"): "decide alike",
    ("docs/reading.md", "torch-materialize report records"): "plan",
    ("docs/agree.md", "torch-materialize agree gated.py:build --rounds 5"): "Beside eager",
    ("docs/reinforcement.md", "python difference.py"): "after:  ",
}

#: The pages that fit into the quick tier; what the others compile and trace takes longer.
QUICK = ("docs/vllm.md",)

_RUN = sorted(name_of(page) for page in PAGES if any(b.language != "text" for b in blocks(page)))


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """A reader's: the commands on the path, and caches in which nothing is yet."""
    caches = tmp_path_factory.mktemp("caches")
    kept = {k: v for k, v in os.environ.items() if not k.endswith(("_GRAPH_CACHE", "GRAD_CACHE"))}
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "XDG_CACHE_HOME": str(caches / "home"),
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        "COLUMNS": "120",
    }


@pytest.mark.e2e
@pytest.mark.long
@pytest.mark.timeout(3 * LIMIT)
@pytest.mark.parametrize("page", but(QUICK, _RUN))
def test_a_page_runs_from_top_to_bottom(page, environment, tmp_path):
    for block in blocks(ROOT / page):
        where = f"{page}:{block.line}"
        if block.title:
            (tmp_path / block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            program = tmp_path / f"line_{block.line}.py"
            program.write_text(block.text, encoding="utf-8")
            _run([sys.executable, program.name], where, environment, tmp_path)
        elif block.language == "sh":
            for command in block.commands:
                if (page, command) not in ELSEWHERE:
                    folder = ROOT if page == "CONTRIBUTING.md" else tmp_path
                    shell = ["bash", "-euo", "pipefail", "-c", command]
                    printed = _run(shell, where, environment, folder)
                    assert PRINTS.get((page, command), "") in printed, f"{where}:\n{printed}"


def _run(words: list[str], where: str, environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(
        words,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, f"{where}: {words[-1]} ended with {done.returncode}\n{done.stdout}"
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_says_what_it_is(page):
    found = blocks(page)
    assert {block.language for block in found} <= {"python", "sh", "text"}
    for place, block in enumerate(found):
        later = "".join(other.text for other in found[place + 1 :])
        stem = Path(block.title).stem
        assert stem in later, f"{name_of(page)}:{block.line}: nothing uses {block.title}"


def test_what_does_not_run_here_is_in_the_texts_and_cannot():
    there = {(name_of(p), c) for p in PAGES for b in _shell(p) for c in b.commands}
    assert set(ELSEWHERE) <= there, "no such command: remove it from ELSEWHERE"
    for (page, command), reason in ELSEWHERE.items():
        assert not _REASONS[reason](command), f"{page}: {command}: not so: {reason}"
    assert set(PRINTS) <= there - set(ELSEWHERE)
    assert set(_REASONS) == set(ELSEWHERE.values()), "a reason that nothing has"


def _shell(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language == "sh"]


def test_what_is_named_in_passing_exists():
    """Commands between backticks, and those that do not run here: targets, files and options."""
    named = [(name_of(p), one) for p in PAGES for code in inline(p) for one in code.split("; ")]
    named += list(ELSEWHERE)
    ours = [(page, command) for page, command in named if _is_ours(command)]
    assert len(ours) > 30
    lacking = [f"{page}: {command}: {_lacks(command)}" for page, command in ours]
    assert not [line for line in lacking if not line.endswith(": ")]


def _words(command: str) -> list[str]:
    words = shlex.split(command.replace("…", "X").rstrip(":"))
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    return ["torch-materialize", *words] if words[0] in main.commands else words


def _is_ours(command: str) -> bool:
    short = "|".join(main.commands)  # `sweep --list`
    ours = rf"(?:[A-Z_]+=\S* )*(?:(?:torch-materialize|make|python|bash) |(?:{short}) .*--)"
    return re.match(ours, command) is not None


def _lacks(command: str) -> str:
    """What of a command does not exist; "" where all does."""
    program, *words = _words(command)
    if program == "make":
        targets = [word for word in words if "=" not in word and not word.startswith("-")]
        lacking = [x for x in targets if not re.search(rf"^{x}:", _MAKEFILE, re.MULTILINE)]
        return f"no target {lacking}" if lacking else ""
    if program == "torch-materialize":
        return _unknown_options(words)
    if words[0] == "-m" and importlib.util.find_spec(words[1]) is None:
        return f"no module {words[1]}"
    files = [word for word in words if re.fullmatch(r"(\.ci|benchmarks|tests|dev)/[\w./]+", word)]
    lacking = [file for file in files if not (ROOT / file).exists()]
    return f"no file {lacking}" if lacking else ""


def _unknown_options(words: list[str]) -> str:
    command: click.Command = main
    options = {"-h", "--help", "--version"}
    for word in words:
        if isinstance(command, click.Group):
            if word in options:
                continue
            if word not in command.commands:
                return f"no command {word}"
            command = command.commands[word]
            options |= {flag for option in command.params for flag in option.opts}
        elif word.startswith("-") and word not in options:
            return f"no option {word}"
    return ""


def test_every_name_of_ours_in_the_texts_is_public():
    pattern = re.compile(r"\btm\.(\w+)")
    texts = {name_of(page): page.read_text(encoding="utf-8") for page in PAGES}
    found = {(page, name) for page, text in texts.items() for name in pattern.findall(text)}
    assert len(found) > 20
    assert {name for _, name in found} <= set(tm.__all__)
