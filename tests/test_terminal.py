"""What commands print: nothing is cut, whatever the width, and nothing empty is shown."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from click.testing import CliRunner
from rich.console import Console

from test_report_page import explanation as layers
from test_sweep import _row, _sweep
from test_verdict import with_shares, with_times, without_gain
from torch_materialize.cli.doctor import print_checkup
from torch_materialize.cli.main import main
from torch_materialize.cli.sweep_tables import print_corpus, print_sweep
from torch_materialize.cli.tuned import print_choices
from torch_materialize.core.story import Refusal
from torch_materialize.jobs.checkup import checkup
from torch_materialize.report.comparison import print_comparison
from torch_materialize.report.difference import print_difference
from torch_materialize.report.report import Report
from torch_materialize.report.tables import say
from torch_materialize.report.terminal import print_explanation
from torch_materialize.report.why import why
from torch_materialize.results import tuned
from torch_materialize.results.explanation import Explanation
from torch_materialize.results.headline import plural
from torch_materialize.results.plan_file import Check, Measured, Moved, PlanFile
from torch_materialize.results.record import EXPLANATION
from torch_materialize.sweep.registry import CORPUS
from torch_materialize.sweep.rows import ModelRow, Result

# At 40 figures are folded, too; nothing is cut there either.
WIDTHS = (40, 60, 80, 120)


def long_names(explanation: Explanation) -> Explanation:
    """With names as long as they come: a target, a module, a source, a class, a policy."""
    name = "plan:limits=strong:numerics=stock"
    (graph,) = explanation.graphs
    facts = {
        node: replace(
            fact,
            module=f"model.language_model.{fact.module}.a_rather_long_attribute_name",
            layer="Qwen3OmniMoeThinkerTextSparseMoeBlock",
            source=f"/home/somebody/site-packages/package/modeling_{'long_' * 12}name.py:{place}",
        )
        for place, (node, fact) in enumerate(graph.facts.items())
    }
    sides = {"stock": graph.sides["stock"], name: graph.sides["plan"]}
    text = "hidden_states = " + " + ".join(f"self.projections[{i}](x)" for i in range(12))
    choices = tuple(replace(one, rules={"stock": "stock", name: "plan"}) for one in graph.decisions)
    saves = {name: graph.saves["plan"]}
    return replace(
        explanation,
        target="a/very/long/path/to/somebodys/own/project/models/benchmarks.py:build_everything",
        policies=tuple(sides),
        priced=name,
        graphs=(replace(graph, facts=facts, sides=sides, decisions=choices, saves=saves),),
        lines={fact.source: text for fact in facts.values()},
        command=("x.py:f", "--device", "h200"),
        unit_bytes=0,
    )


def refused(explanation: Explanation) -> Explanation:
    graphs = without_gain(explanation, (Refusal("peak", 9, 10, 3, 2, 1),)).graphs
    return replace(explanation, graphs=graphs)


def alone(explanation: Explanation) -> Explanation:
    """Under stock only."""
    (graph,) = explanation.graphs
    graph = replace(graph, sides={"stock": graph.sides["stock"]})
    return replace(explanation, policies=("stock",), priced="stock", graphs=(graph,))


RECORDS: dict[str, Callable[[], Explanation]] = {
    "layers": lambda: with_shares(layers()),
    "one": lambda: with_shares(layers(layers=1)),
    "training": lambda: replace(layers(), graphs=layers().graphs * 2, unit_bytes=0),
    "nothing": lambda: without_gain(layers()),
    "refused": lambda: refused(layers()),
    "long": lambda: long_names(with_shares(layers(layers=20))),
    "times": lambda: with_times(layers(), stock=1.234567e-3, plan=1.1e-3),
    "without-prices": lambda: replace(layers(), prices=False),
    "alone": lambda: alone(layers()),
}


def shown(name: str, explanation: Explanation) -> Iterator[Callable[[Console], None]]:
    """All that commands print of a record."""
    for verbose in (False, True):
        yield lambda console, more=verbose: print_comparison(explanation, console, 8, more)
        yield lambda console, more=verbose: print_explanation(explanation, console, 8, more)
    yield lambda console: print_comparison(explanation, console, 0)
    yield lambda console: print_difference(explanation, layers(), ("A", "B"), console)
    graph = explanation.graphs[0]
    sides = {policy: graph.sides[policy] for policy in explanation.policies}
    story = why(explanation, replace(graph, sides=sides), graph.decisions[0])
    yield lambda console: say(console, story)


def fits(print_it: Callable[[Console], None], width: int) -> str:
    out = io.StringIO()
    print_it(Console(file=out, width=width))
    text = out.getvalue()
    lines = text.splitlines()
    assert lines
    assert max(map(len, lines)) <= width
    assert "…" not in text
    assert "\x1b" not in text
    rules = [place for place, line in enumerate(lines) if set(line.strip()) == {"─"}]
    for place in rules:
        assert place + 1 < len(lines) and lines[place + 1].strip(), "an empty table"
    return text


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", RECORDS)
def test_what_is_shown_of_a_record_fits(name, width):
    for print_it in shown(name, RECORDS[name]()):
        fits(print_it, width)


@pytest.mark.parametrize("width", WIDTHS)
def test_what_is_folded_is_all_there(width):
    explanation = RECORDS["long"]()
    text = fits(lambda console: print_comparison(explanation, console), width)
    # In the words of the verdict nothing else is on the line.
    assert explanation.target in "".join(text.split())
    assert "plan:limits=strong:numerics=stock" in "".join(text.split())


@pytest.mark.parametrize("width", WIDTHS)
def test_a_sweep_a_list_and_a_checkup_fit(width, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_MATERIALIZE_TUNED", str(tmp_path))
    monkeypatch.setenv("TORCH_MATERIALIZE", "plna")
    moved = Moved(1, 1)
    measured = Measured("m", "plan", {"stock": 1.0, "plan": 0.5})
    check = Check(1, moved, moved)
    tuned.remember(PlanFile("k" * 64, "forward", 1, "cpu", "tune", {}, check, measured=measured))
    (tmp_path / "broken.json").write_text("{")
    names = ["timm-mobilenetv3_large_100", "/a/long/path/to/somebodys/own/models.py:function"]
    failed = ModelRow(names[1], "own", "inference", "crash", "SIGSEGV: " + "many words " * 20)
    full = _sweep(*(_row(n, bound=450.0, kind="backward", index=1) for n in names))
    full = full.with_result(Result(failed))
    for sweep in (full, _sweep(), _sweep(_row())):
        fits(lambda console, sweep=sweep: print_sweep(sweep, console), width)
    fits(lambda console: print_corpus(CORPUS, console), width)
    for verbose in (False, True):
        fits(lambda console, v=verbose: print_checkup(checkup(), console, v), width)
    text = fits(print_choices, width)
    assert text.startswith("1 choice in")


def test_compare_of_a_deep_model_is_40_lines():
    explanation = replace(layers(layers=64), command=("llama-3.1-8b", "--device", "h200"))
    assert len(fits(lambda c: print_comparison(explanation, c), 80).splitlines()) <= 40


def test_the_first_words_are_the_verdict(tmp_path):
    path = tmp_path / "r.json"
    EXPLANATION.save(layers(), path)
    for words in (["report", str(path)],):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0
        assert done.output.startswith("net: `plan` moves ")


def test_a_report_prints_the_same(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    report = Report(layers())
    report.print()
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert printed == str(report).splitlines()
    assert report.verdict.text().startswith("`plan` moves ")


def test_a_terminal_without_the_characters_shows_a_record_all_the_same(tmp_path):
    path, one = tmp_path / "r.json", with_shares(layers())
    sources = {fact.source for fact in one.graphs[0].facts.values()}
    EXPLANATION.save(replace(one, lines=dict.fromkeys(sources, "größe = a + b")), path)
    words = [sys.executable, "-m", "torch_materialize", "report", str(path)]
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert "gr??e = a + b" in done.stdout


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [(1, "choice", "1 choice"), (0, "kernel", "0 kernels"), (2, "more family", "2 more families")],
)
def test_counts_are_in_the_right_number(number, noun, text):
    assert plural(number, noun) == text


_MISSPELT = [
    ["compare", "lama"],
    ["explain", "gtp2"],
    ["compare", "vllm:lama"],
    ["compare", "gpt2", "--device", "h20"],
    ["explain", "gpt2", "--policy", "trafic"],
    ["sweep", "gtp2"],
    ["sweep", "gpt2", "--policy", "trafic"],
    ["sweep", "gpt2", "--device", "h20"],
    ["compare", "{file}:modle"],
    ["sweep", "{file}:modle"],
    ["compare", "nowhere.py:model"],
]


@pytest.mark.parametrize("words", _MISSPELT, ids=" ".join)
def test_a_misspelt_word_is_refused_without_loading_torch(words, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\n\ndef model():\n    return torch.nn.Linear(2, 2), torch.ones(2)\n"
    )
    code = (
        "import sys\nfrom torch_materialize.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n    print('torch' in sys.modules)\n"
    )
    words = [word.format(file=file) for word in words]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode in (1, 2)
    assert done.stdout.split() == ["False"]
    assert "Traceback" not in done.stderr
    assert "rror: " in done.stderr
