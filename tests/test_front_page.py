"""The README: short, and its figures are those of the result files that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tables
from texts import PAGES, name_of
from torch_materialize.results.base import read_json
from torch_materialize.sweep.file import SWEEP
from torch_materialize.sweep.verdict import verdict_of

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

_LINK = re.compile(r'(?:\]\(|src="|srcset=")([^)"\s#]*)(#[^)"\s]*)?')


def test_it_is_short():
    assert len(README.encode()) <= 7000


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for path, anchor in _LINK.findall(text):
        if path.startswith(("http:", "https:")):
            continue
        target = page.parent / path if path else page
        assert target.exists(), f"{name_of(page)}: {path}"
        if anchor and not anchor.startswith("#only-"):
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.M)
            assert anchor[1:] in {_slug(heading) for heading in headings}, f"{path}{anchor}"


def _slug(heading: str) -> str:
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower())).strip("-")


def _row(words: str) -> list[str]:
    (line,) = [x for x in README.splitlines() if x.startswith(f"| {words}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def _file(cell: str):
    (path,) = re.findall(r"\((results/[^)]+)\)", cell)
    return read_json(ROOT / path)


def _measured(data, part: str) -> dict[tuple[str, int], tuple[float, str]]:
    """(case, tokens) -> milliseconds of stock, and the share of them that plan takes."""
    found = {}
    for row in tables.measured(data):
        if row["part"] == part:
            _, stock, plan, *_ = tables.cells(row, ["plan"])
            found[row["name"], row["tokens"]] = float(stock), plan.partition(" ")[0]
    return found


def test_the_times_are_those_of_the_files():
    whole = _row("GPT-2, whole model")
    gpu = _file(whole[3])
    assert _measured(gpu, "whole")["gpt2", 0] == (_number(whole[1]), whole[2])
    fused = _row("Llama-3.1-8B, 16 layers, 8192 tokens")
    assert _measured(gpu, "fused")["llama-3.1-8b", 8192] == (_number(fused[1]), fused[2])


def test_the_range_on_a_cpu_is_that_of_the_file():
    row = _row("eight cases of whole models")
    found = _measured(_file(row[3]), "whole").values()
    assert len(found) == 8
    shares = sorted(share for _, share in found)
    assert row[2] == f"{shares[0]} to {shares[-1]}"
    times = sorted(time for time, _ in found)
    assert row[1] == f"{times[0]:.0f} to {times[-1]:.0f} ms"


def test_the_bytes_of_many_graphs_are_those_of_the_files():
    row = _row("223 graphs")
    files = [ROOT / path for path in re.findall(r"\((results/[^)]+)\)", row[3])]
    assert files
    graphs = {}
    for file in files:
        for graph in read_json(file)["graphs"]:
            key = graph["name"], graph["kind"], graph["index"]
            graphs[key] = graph["bytes"]["plan"] / graph["bytes"]["stock"]
    assert len(graphs) == 223
    product = 1.0
    for share in graphs.values():
        product *= share
    assert row[2] == f"x{product ** (1 / len(graphs)):.3f}, none more"
    assert max(graphs.values()) < 1.001
    steps = verdict_of(SWEEP.load(files[-1]))
    assert _row("of these the training steps of 54 models")[2] == f"x{steps.geomean:.3f}"
    assert (steps.models, steps.worse) == (54, 0)


def _number(cell: str) -> float:
    return float(cell.split(maxsplit=1)[0])
