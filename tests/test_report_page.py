"""The HTML report in a real browser; skipped where there is no Chromium."""

from __future__ import annotations

import re

import pytest

import browser
from torch_materialize.core.graph import Graph, Kernel, Tensor
from torch_materialize.core.story import Group, TensorChoice
from torch_materialize.report import charts
from torch_materialize.report.report import Report
from torch_materialize.results.explanation import Code, ExplainedGraph, Explanation, Node, Side

SIZE = 1 << 20


def explanation(layers: int = 6, per_layer: int = 4) -> Explanation:
    """Layers of a sum and of tensors computed from it, as ``explain`` would give them."""
    policies = ("stock", "traffic", "plan")
    facts, decisions = {}, []
    kernels = {policy: [] for policy in policies}
    for layer in range(layers):
        for place in range(per_layer):
            name = f"sum_{layer}" if place == 0 else f"value_{layer}_{place}"
            facts[name] = Node(
                name=name,
                op="aten.add.Tensor",
                module=f"layers.{layer}.norm",
                layer="Norm",
                source=f"/home/me/site-packages/model/net.py:{place + 1}",
                dtype="bfloat16",
                shape=("8", "64"),
                bytes=SIZE * (place + 1),
                kind="pointwise",
            )
            is_open = place < 2
            decisions.append(
                TensorChoice(
                    name,
                    {policy: policy if is_open else "needed" for policy in policies},
                    stored_bytes=10 * SIZE + place if is_open else None,
                    inlined_bytes=(10 + layer) * SIZE if is_open else None,
                    peak_change=SIZE if place else 0,
                    alone_saves=SIZE,
                    rounding="bfloat16" if place == 0 else "",
                )
            )
        made = f"sum_{layer}"
        for policy in policies:
            reads = {"arg0_1": SIZE, f"buf{layer - 1}": SIZE}
            if policy == "stock":
                reads |= {f"buf{i}": SIZE for i in range(max(0, layer - 8), layer)}
            kernels[policy].append(
                Kernel(
                    f"op{layer}",
                    "pointwise",
                    reads if layer else {"arg0_1": SIZE},
                    {f"buf{layer}": SIZE} if policy == "plan" else {f"out{layer}": SIZE},
                    (made, *(f"value_{layer}_{i}" for i in range(1, per_layer))),
                )
            )
    tensors = {"arg0_1": Tensor("arg0_1", "", SIZE, "bfloat16")}
    for layer in range(layers):
        tensors[f"buf{layer}"] = Tensor(f"buf{layer}", f"sum_{layer}", SIZE, "bfloat16")
        tensors[f"out{layer}"] = Tensor(f"out{layer}", f"value_{layer}_1", SIZE, "bfloat16")
    sides = {
        policy: Side(
            Graph(tuple(kernels[policy]), tensors),
            bound=float(SIZE) if policy == "plan" else None,
            work={f"op{i}": 5 * SIZE for i in range(layers)},
            code=Code(
                {"triton_norm": f"# the kernel of {policy} <script>"}, ("triton_norm",) * layers
            ),
        )
        for policy in policies
    }
    group = Group(tuple(f"sum_{i}" for i in range(layers)), 10 * SIZE, 20 * SIZE)
    graph = ExplainedGraph(
        "inference", layers * per_layer, facts, sides, tuple(decisions), (group,)
    )
    return Explanation(
        "net",
        "h200",
        policies,
        "plan",
        (graph,),
        SIZE,
        {"build": 0.1},
        {"torch-materialize": "0", "torch": "2"},
        balance=0.02,
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    if not browser.BINARY:
        pytest.skip("no Chromium is installed")
    made = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture
def report(tmp_path):
    path = tmp_path / "report.html"
    Report(explanation()).save(path)
    return path


def test_bars_start_at_zero_and_are_as_long_as_what_they_stand_for():
    """Though stock and the plan differ by a hundredth: a cut axis would make that a half."""
    bars = [
        charts._Bar("stock", 0, 1000, "total", "1 kB"),
        charts._Bar("norm", 1000, 990, "less", "-10 B"),
        charts._Bar("plan", 0, 990, "total", "990 B"),
    ]
    drawn = re.findall(r'<rect x="([\d.]+)" y="\d+" width="([\d.]+)"', charts._bars(bars, 980, ""))
    (zero, stock), (place, norm), (start, plan) = [(float(x), float(w)) for x, w in drawn]
    assert start == zero
    assert plan / stock == pytest.approx(0.99, abs=1e-3)
    assert norm / stock == pytest.approx(0.01, abs=1e-3)
    assert place == pytest.approx(zero + plan, abs=0.1)


def first_tensor(page):
    return page.run("document.querySelector('#t-table tbody th').innerText.trim()")


def click(page, selector):
    assert page.run(
        f"(() => {{ const e = document.querySelector({selector!r}); e?.click(); return !!e; }})()"
    )


def test_the_page_asks_nobody_for_anything(report):
    text = report.read_text()
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)""", text)
    assert "url(" not in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_what_the_model_says_is_no_markup(tmp_path):
    from dataclasses import replace

    path = tmp_path / "report.html"
    Report(replace(explanation(), target="<img src=x>")).save(path)
    assert "<img" not in path.read_text()


def test_headline_and_charts_are_there(page, report):
    page.open(report)
    cards = page.run("[...document.querySelectorAll('.card b')].map(e => e.innerText).join(' ')")
    assert "MB" in cards
    assert page.run("document.querySelectorAll('figure svg').length") == 3
    assert page.run(
        "[...document.querySelectorAll('svg')].every(e => e.getAttribute('aria-label'))"
    )


def test_sort(page, report):
    page.open(report)
    button = "#t-table thead th:nth-child(4) button"
    click(page, button)
    assert (
        page.run("document.querySelector('#t-table thead th:nth-child(4)').ariaSort")
        == "descending"
    )
    largest = first_tensor(page)
    click(page, button)
    assert first_tensor(page) != largest
    assert first_tensor(page) == "sum_0"


def test_search(page, report):
    page.open(report)
    page.run(
        "(() => { const e = document.getElementById('t-search'); e.value = 'layers.3 net.py:1';"
        " e.dispatchEvent(new Event('input')); })()"
    )
    assert first_tensor(page) == "sum_3"
    assert page.run("document.querySelectorAll('#t-table tbody tr').length") == 1
    assert page.run("document.getElementById('t-count').innerText") == "1 shown"


def test_a_tensor_is_followed_to_its_kernel_by_keyboard(page, report):
    page.open(report, "#t/0/sum_2")
    page.wait("document.activeElement.innerText.trim() === 'sum_2'")
    story = page.run("document.querySelector('#t-table .detail').innerText")
    assert "sum_2 is aten.add.Tensor" in story
    page.run(
        "[...document.querySelectorAll('#t-table .detail a')]"
        ".find(a => a.hash.includes('/plan/')).focus()"
    )
    page.press("Enter")
    page.wait("document.activeElement.innerText.trim().startsWith('3. Norm')")
    assert page.run("document.getElementById('k-policy').value") == "plan"
    detail = page.run("document.querySelector('#k-table .detail').innerText")
    assert "sum_1" in detail
    codes = page.run("[...document.querySelectorAll('.codes pre')].map(e => e.innerText)")
    assert codes == ["# the kernel of plan <script>", "# the kernel of stock <script>"]


def test_dark(page, report):
    page.open(report)
    colour = "getComputedStyle(document.body).backgroundColor"
    before = page.run(colour)
    click(page, "#theme")
    assert page.run(colour) != before
    assert page.run("document.getElementById('theme').ariaPressed") == "true"
    page.run("localStorage.clear()")
    page.call(
        "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}]
    )
    page.open(report)
    assert page.run(colour) != before
    page.call("Emulation.setEmulatedMedia", features=[])


def test_no_button_or_field_is_without_a_name(page, report):
    page.open(report, "#t/0/sum_2")
    nameless = page.run(
        "[...document.querySelectorAll('button, input, select')].filter("
        "e => !(e.innerText || e.ariaLabel || e.labels?.[0]?.innerText)).length"
    )
    assert nameless == 0


def test_a_large_report_opens_and_draws_few_rows(page, tmp_path, record_property):
    path = tmp_path / "large.html"
    Report(explanation(layers=1000, per_layer=5)).save(path)
    assert path.stat().st_size < 5_000_000
    record_property("seconds", page.open(path))  # how long is a figure and no test
    assert page.run("document.querySelectorAll('#t-table tbody tr').length") <= 60
