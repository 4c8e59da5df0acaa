"""The HTML report in a real browser; skipped where there is no Chromium."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

import browser
from reported import PATH, SIZE, alone, compared, explanation, training, unchanged
from torch_materialize.report.html import page as html
from torch_materialize.report.perfetto import timeline
from torch_materialize.report.report import Report
from torch_materialize.report.trace import Measured

SAVED = 10 * SIZE  # what the plan of `explanation` saves against stock
PERFETTO = "https://ui.perfetto.dev"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    if not browser.BINARY:
        pytest.skip("no Chromium is installed (chromium, chromium-browser or google-chrome)")
    made = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture
def report(tmp_path):
    path = tmp_path / "report.html"
    Report(explanation()).save(path)
    return path


@pytest.fixture
def wide(page):
    yield lambda width: page.size(width, 900)
    page.size(1280, 900)
    page.media()


def texts(page, selector):
    return page.run(
        f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent.trim())"
    )


def click(page, selector):
    selector = json.dumps(selector)
    assert page.run(
        f"(() => {{ const e = document.querySelector({selector}); e?.click(); return !!e; }})()"
    )


def bytes_of(page, selector):
    """What cells stand for: they show three figures, and carry the bytes."""
    found = page.run(
        f"[...document.querySelectorAll({json.dumps(selector)})].map(e => Number(e.dataset.bytes))"
    )
    return [int(one) for one in found]


def search(page, words):
    page.run(
        "(() => { const e = document.getElementById('search'); "
        f"e.value = {json.dumps(words)}; e.dispatchEvent(new Event('input')); }})()"
    )


def focused(page):
    return page.run("document.activeElement.textContent.trim()")


# The file.


def test_the_page_asks_nobody_for_anything(report):
    text = report.read_text()
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)""", text)
    assert "url(" not in text
    text = text.replace("http://www.w3.org/2000/svg", "")
    # It is opened at a click and gets the trace from the page; nothing is loaded from it.
    assert text.count(PERFETTO) == 1
    assert "http" not in text.replace(PERFETTO, "")


def test_what_the_model_says_is_no_markup(tmp_path):
    path = tmp_path / "report.html"
    lines = {f"{PATH}:1": "<img src=y>"}
    Report(replace(explanation(), target="<img src=x>", lines=lines)).save(path)
    assert "<img" not in path.read_text()


# What it says first.


def test_the_verdict_needs_no_script(report):
    text = re.sub(r"<[^>]+>", "", report.read_text())
    assert "plan moves 37.0% less than stock" in text
    assert 'torch.compile(model, options=tm.options("plan"))' in text.replace("&#34;", '"')


# Sums.


def test_rows_of_changes_add_up_to_what_is_saved(page, report):
    page.open(report)
    rows = bytes_of(page, "#changes-tree tr.level1 [data-bytes]")
    rest = bytes_of(page, "#changes-tree .otherwise [data-bytes]")
    assert rest == [SIZE]
    assert sum(rows) + sum(rest) == SAVED
    assert bytes_of(page, "#changes-tree .sum [data-bytes]") == [SAVED]
    search(page, "layers.3")
    (here,) = bytes_of(page, "#changes-tree tr.level1 [data-bytes]")
    assert here == 3 * SIZE
    left = bytes_of(page, "#changes-tree .left [data-bytes]")
    assert here + sum(left) + sum(rest) == SAVED
    assert bytes_of(page, "#changes-tree .sum [data-bytes]") == [SAVED]


def test_rows_of_kernels_add_up_to_what_is_saved(page, report):
    page.open(report)
    assert sum(bytes_of(page, "#pairs-tree tr.level1 [data-bytes]")) == SAVED
    click(page, "#pairs-tree tr.level1")
    assert sum(bytes_of(page, "#pairs-tree tr.level2 [data-bytes]")) == SAVED
    assert bytes_of(page, "#pairs-tree .sum [data-bytes]") == [SAVED]


def test_modules_are_as_wide_as_what_their_kernels_move(page, report):
    page.open(report)
    one = explanation()
    totals = bytes_of(page, '#icicle [data-path=""]')
    assert totals == [one.traffic("stock").bytes, one.traffic("plan").bytes]
    for panel in (1, 2):
        within = f"#icicle > div:nth-child({panel}) "
        layers = bytes_of(page, f'{within}[aria-level="3"]')
        assert len(layers) == 6
        assert sum(layers) == totals[panel - 1]
    widths = page.run(
        "[...document.querySelectorAll('#icicle [data-path=\"\"]')]"
        ".map(e => e.getBoundingClientRect().width)"
    )
    assert widths[1] / widths[0] == pytest.approx(totals[1] / totals[0], abs=0.01)


def test_the_csv_has_what_is_shown_in_bytes(page, report):
    page.open(report)
    page.run(
        "(() => { window.saved = []; const make = URL.createObjectURL; "
        "URL.createObjectURL = (blob) => { saved.push(blob.text()); return make(blob); }; })()"
    )
    click(page, "#changes-csv")
    rows = [row.split(",") for row in page.run("Promise.all(saved)")[0].splitlines()]
    column = rows[0].index("saves_bytes")
    assert sum(int(row[column]) for row in rows[1:]) == SAVED


# Ways through it.


def test_a_tree_is_walked_by_keys(page, report):
    page.open(report)
    page.run("document.querySelector('#changes-tree tr[data-id]').focus()")
    page.press("ArrowRight")
    assert page.run("document.activeElement.ariaExpanded") == "true"
    page.press("ArrowDown")
    assert "layers.*.norm" in focused(page)
    page.press("ArrowRight")
    page.press("ArrowDown")
    assert focused(page).startswith("sum_4")
    page.press("ArrowLeft")
    page.press("ArrowLeft")
    assert page.run("document.activeElement.ariaExpanded") == "false"
    page.press("End")
    assert "net.py:2" in focused(page)


def test_a_line_is_shown_with_its_text(page, report):
    page.open(report)
    assert "model/net.py:1x = x + self.attn(x)" in texts(page, "#changes-tree .level1 .title")


def test_modules_are_zoomed_by_keys_and_the_address_keeps_the_place(page, report):
    page.open(report)
    page.run("document.querySelector('#icicle [data-path]').focus()")
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "Enter"):
        page.press(key)
    assert page.run("new URLSearchParams(location.hash.split('?')[1]).get('zoom')") == "/layers/1"
    assert "layers.1" in texts(page, "#icicle-trail")[0]
    address = page.run("location.hash")
    page.open(report, address)
    assert "layers.1" in texts(page, "#icicle-trail")[0]
    page.run("document.querySelector('#icicle [data-path]').focus()")
    page.press("Escape")
    assert "layers.1" not in texts(page, "#icicle-trail")[0]


def test_a_search_is_in_all_parts_and_in_the_address(page, report):
    page.open(report)
    search(page, "layers.3 net.py:1")
    assert texts(page, "#t-table tbody th") == ["sum_3"]
    assert texts(page, "#t-count") == ["1 shown"]
    address = page.run("location.hash")
    assert "q=layers.3" in address
    page.open(report, address)
    assert texts(page, "#t-table tbody th") == ["sum_3"]
    search(page, "nothing of that name")
    assert page.run("document.querySelectorAll('.empty').length") >= 3
    click(page, "#changes-tree .empty button")
    assert len(texts(page, "#changes-tree tr.level1")) == 2


def test_sort(page, report):
    page.open(report)
    button = "#t-table thead th:nth-child(4) button"
    click(page, button)
    assert page.run("document.querySelector('#t-table thead th:nth-child(4)').ariaSort") == (
        "descending"
    )
    largest = texts(page, "#t-table tbody th")[0]
    click(page, button)
    assert texts(page, "#t-table tbody th")[0] == "sum_0" != largest
    click(page, "#changes-tree thead th:nth-child(1) button")
    assert "net.py:1" in texts(page, "#changes-tree tbody tr")[0]


def test_a_tensor_is_followed_to_its_kernel_by_keyboard(page, report):
    page.open(report, "#t/0/sum_2")
    page.wait("document.activeElement.textContent.trim() === 'sum_2'")
    story = page.run("document.querySelector('#t-table .detail').innerText")
    assert "sum_2 is aten.add.Tensor" in story
    page.run(
        "[...document.querySelectorAll('#t-table .detail a')]"
        ".find(a => a.hash.includes('/plan/')).focus()"
    )
    page.press("Enter")
    page.wait("document.activeElement.textContent.trim().startsWith('3. Norm')")
    assert page.run("document.getElementById('k-policy').value") == "plan"
    page.run("document.activeElement.blur()")
    page.run("document.querySelector('a[href=\"#k/0/plan/2\"]').click()")
    assert focused(page).startswith("3. Norm")
    detail = page.run("document.querySelector('#k-table .detail').innerText")
    assert "sum_1" in detail


def test_a_pair_shows_the_difference_of_its_code_with_the_tensors_names(page, report):
    page.open(report, "#p/0/2")
    page.wait("!!document.querySelector('#pairs-tree .code')")
    gone, new = (texts(page, f"#pairs-tree tr.{kind} .text") for kind in ("gone", "new"))
    assert "tmp1 = tl.load(in_ptr1 + (x0), None)  # in_ptr1 = sum_0" in gone
    assert "tmp2 = tmp0 + tmp1" in gone
    assert "tl.store(out_ptr0 + (x0), tmp1, None)  # out_ptr0 = sum_2" in new
    assert any("<script>" in line for line in texts(page, "#pairs-tree .text"))
    only_stock = texts(page, "#pairs-tree .side.gone .fresh")
    assert [one.split()[0] for one in only_stock] == ["sum_0", "value_2_1"]


def test_a_point_of_the_chart_leads_to_its_kernels(page, report):
    page.open(report)
    assert len(page.run("[...document.querySelectorAll('#chart [data-n]')].map(e => 1)")) == 6
    page.run("document.querySelector('#chart [data-n]').focus()")
    page.press("ArrowRight")
    page.press("Enter")
    page.wait("document.activeElement.dataset.id === 'p/0/1'")
    assert page.run("document.activeElement.ariaExpanded") == "true"


def test_a_pointer_over_a_module_says_its_bytes(page, report):
    page.open(report)
    page.run(
        "document.querySelector('#icicle [data-path]').dispatchEvent("
        "new PointerEvent('pointermove', {bubbles: true, clientX: 50, clientY: 50}))"
    )
    said = page.run("document.getElementById('tip').innerText")
    assert "stock: 28.3 MB in 6 kernels" in said
    assert "10.5 MB less under plan" in said


def test_what_if_says_that_it_estimates_and_how_to_verify(page, report):
    page.open(report)
    assert page.run("document.getElementById('whatif').hidden")
    click(page, '#t-table [data-flip="t/0/sum_3"]')
    said = page.run("document.getElementById('whatif').innerText")
    assert "Estimate, not measured: 17.8 MB + 3.15 MB = 21 MB" in said
    assert "x = tm.inline(x)  # behind model/net.py:1" in said
    assert "torch-materialize compare net" in said
    page.open(report, page.run("location.hash"))
    assert "= 21 MB" in page.run("document.getElementById('whatif').innerText")


def test_tensors_alike_that_are_turned_over_together_have_the_groups_price(page, report):
    page.open(report)
    click(page, "#changes-tree tr.level1")
    click(page, "#changes-tree tr.level2 [data-flips]")
    said = page.run("document.getElementById('whatif').innerText")
    assert "17.8 MB + 10.5 MB = 28.3 MB" in said
    assert said.count("tm.inline") == 1  # one line of the model makes them all
    assert "Each was priced alone" not in said
    click(page, '#t-table [data-flip="t/0/sum_3"]')
    said = page.run("document.getElementById('whatif').innerText")
    assert "Each was priced alone" in said


# Time.


@pytest.mark.parametrize("made", [explanation, training])
def test_the_page_makes_the_timeline_that_the_command_writes(page, tmp_path, made):
    path = tmp_path / "report.html"
    Report(made()).save(path)
    page.open(path)
    page.run(
        "(() => { window.sent = []; window.open = (url) => { window.asked = url; return { "
        "closed: false, postMessage: (message, to) => { sent.push([message, to]); } }; }; })()"
    )
    click(page, "#perfetto-open")
    page.wait("sent.length > 0")
    assert page.run("asked") == PERFETTO
    assert page.run("sent[0]") == ["PING", PERFETTO]
    pong = f"new MessageEvent('message', {{data: 'PONG', origin: '{PERFETTO}'}})"
    page.run("dispatchEvent(new MessageEvent('message', {data: 'PONG', origin: 'https://a.b'}))")
    assert page.run("sent.every(([message]) => message === 'PING')")
    page.run(f"dispatchEvent({pong})")
    page.wait("!!sent.at(-1)[0].perfetto")
    assert page.run("sent.at(-1)[1]") == PERFETTO
    sent = page.run("new TextDecoder().decode(sent.at(-1)[0].perfetto.buffer)")
    assert json.loads(sent) == json.loads(json.dumps(timeline(made())))


TRACE = {
    "traceEvents": [
        {"ph": "X", "cat": "cpu_op", "name": "triton_fused_norm_9", "dur": 40},
        {"ph": "X", "cat": "kernel", "name": "triton_fused_norm_9", "dur": 2},
        {"ph": "X", "cat": "kernel", "name": "triton_fused_norm_9", "dur": 3},
        {"ph": "X", "cat": "kernel", "name": "triton_fused_norm_9", "dur": 400},
        {"ph": "X", "cat": "kernel", "name": "triton_fused_strange_3", "dur": 4},
    ]
}


def fused_names(one):
    """The same with names of functions as Inductor gives them."""
    graph = one.graphs[0]
    side = graph.sides["plan"]
    name = "triton_fused_norm_9"
    code = replace(
        side.code,
        kernels={name: side.code.kernels["triton_norm_7"]},
        launches=(name,) * len(side.code.launches),
    )
    sides = {**graph.sides, "plan": replace(side, code=code)}
    return replace(one, graphs=(replace(graph, sides=sides),))


def test_a_measured_trace_is_joined_by_the_kernels_names(page, tmp_path):
    path, trace = tmp_path / "report.html", tmp_path / "trace.json"
    Report(fused_names(explanation())).save(path)
    trace.write_text(json.dumps(TRACE))
    page.open(path)
    page.choose("#trace-file", trace)
    page.wait("!!document.querySelector('#measured tbody tr')")
    said = texts(page, "#measured")[0]
    assert "held against" in said
    assert "1 of its 1 generated function ran" in said
    assert "1 kernel of the trace is not in this record" in said
    # A median of 3 us; 6 launches of 17.8 MB in all.
    assert texts(page, "#measured tbody td") == ["6", "3.00 µs", "2.97 MB", "990 GB/s"]


def test_a_trace_that_is_given_to_the_command_is_there_from_the_start(page, tmp_path):
    path = tmp_path / "report.html"
    measured = Measured("run.json", {"triton_fused_norm_9": (2, 3.0)})
    path.write_text(html(fused_names(explanation()), measured))
    page.open(path)
    assert "run.json" in texts(page, "#measured")[0]
    assert "3.00 µs" in texts(page, "#measured tbody td")


def test_a_file_that_is_no_trace_is_refused_in_words(page, report, tmp_path):
    trace = tmp_path / "trace.json"
    trace.write_text("{}")
    page.open(report)
    page.choose("#trace-file", trace)
    page.wait("!!document.querySelector('#measured .empty')")
    assert "cannot be read as a trace of torch.profiler" in texts(page, "#measured")[0]


# Looks.


@pytest.mark.parametrize("width", [390, 768, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("made", [explanation, training, unchanged, alone, compared])
def test_it_fits_and_nothing_fails(page, wide, tmp_path, made, width, scheme):
    path = tmp_path / "report.html"
    Report(made()).save(path)
    wide(width)
    page.media(prefers_color_scheme=scheme)
    page.open(path)
    page.run(
        "(() => { const all = (selector) => document.querySelectorAll(selector); "
        "for (const e of all('details')) e.open = true; "
        "for (let n = 0; n < 4; n++) "
        "for (const e of all('[aria-expanded=\"false\"].opens')) e.click(); "
        "for (const e of all('.open-row')) e.click(); })()"
    )
    assert page.run("document.scrollingElement.scrollWidth") <= width
    # Flat tables of many columns may be scrolled between the two widths.
    tables = ["#changes-tree", "#pairs-tree"] + ["#t-table", "#k-table"] * (width != 768)
    over = "(e => e.scrollWidth - e.clientWidth)(document.querySelector('{}'))"
    assert {table: page.run(over.format(table)) for table in tables} == dict.fromkeys(tables, 0)
    assert page.errors() == []


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (unchanged, "plan decides nothing otherwise than stock here"),
        (alone, "There is no other policy here to hold this one against"),
    ],
)
def test_where_nothing_changes_the_page_says_so(page, tmp_path, made, words):
    path = tmp_path / "report.html"
    Report(made()).save(path)
    page.open(path)
    assert words in texts(page, "#changes-tree")[0]
    assert texts(page, "#pairs-tree .empty")


def test_without_code_it_says_how_to_keep_it(page, tmp_path):
    path = tmp_path / "report.html"
    Report(explanation(with_code=False)).save(path)
    page.open(path, "#p/0/2")
    assert "--code" in texts(page, "#pairs-tree .detail")[0]
    assert page.errors() == []


def test_dark(page, report):
    page.open(report)
    colour = "getComputedStyle(document.body).backgroundColor"
    before = page.run(colour)
    click(page, "#theme")
    assert page.run(colour) != before
    assert page.run("document.getElementById('theme').ariaPressed") == "true"
    page.run("localStorage.clear()")
    page.media(prefers_color_scheme="dark")
    page.open(report)
    assert page.run(colour) != before
    page.media()


def test_on_paper_lines_are_open_and_buttons_gone(page, report):
    page.open(report)
    click(page, "#theme")
    page.run("dispatchEvent(new Event('beforeprint'))")
    page.call("Emulation.setEmulatedMedia", media="print")
    assert len(texts(page, "#changes-tree tr.level2")) == 2
    assert page.run("getComputedStyle(document.querySelector('h1')).color") == "rgb(0, 0, 0)"
    page.run("localStorage.clear()")
    seen = "[...document.querySelectorAll('button:not(thead button), nav')]"
    assert page.run(f"{seen}.filter(e => e.checkVisibility()).length") == 0
    page.call("Emulation.setEmulatedMedia", media="")


def test_no_button_or_field_is_without_a_name(page, report):
    page.open(report, "#t/0/sum_2")
    nameless = page.run(
        "[...document.querySelectorAll('button, input, select')].filter(e => "
        "!(e.textContent || e.ariaLabel || e.labels?.[0]?.textContent)).map(e => e.outerHTML)"
    )
    assert nameless == []


def test_a_large_report_opens_and_draws_few_rows(page, tmp_path, record_property):
    path = tmp_path / "large.html"
    Report(explanation(layers=1000, per_layer=5)).save(path)
    assert path.stat().st_size < 5_000_000
    record_property("seconds", page.open(path))  # how long is a figure and no test
    assert page.run("document.querySelectorAll('tbody tr').length") <= 200
    click(page, "#pairs-tree tr.level1")
    assert page.run("document.querySelectorAll('tbody tr').length") <= 300
