"""Plan files: found by a key that is the graph's own, checked, and never in a compile's way."""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.fx.experimental.proxy_tensor import make_fx

import torch_materialize as tm
from torch_materialize.core.devices import CPU, DEVICES
from torch_materialize.core.policy import parse
from torch_materialize.inductor.fx.canonical import canonical
from torch_materialize.inductor.fx.decision import NESTED_REDUCTIONS, Decision, names_of
from torch_materialize.inductor.fx.post_grad import PostGrad, copy_graph
from torch_materialize.inductor.hooks import graph_lowering
from torch_materialize.inductor.hooks.policy_pass import PolicyPass
from torch_materialize.inductor.offline import capture as capturing
from torch_materialize.inductor.offline.plan_making import plan_of
from torch_materialize.inductor.plan import plan_files, process_group
from torch_materialize.inductor.plan.plan_key import plan_key
from torch_materialize.results import plan_file
from torch_materialize.results.plan_file import PLAN_FILE, in_folder, save

# Every byte saved is worth a plan, so that a small graph has one.
STRONG = parse("plan:limits=strong")


def block(x, a, b):
    """Stock keeps what a plan reads again, for a few bytes less."""
    first = x + a
    second = first.softmax(-1) + first + b
    return second.softmax(-1), second.mean(-1), (first * second).sum(0)


def writes(x, y, z):
    a, b = x.sin() + y, (x * y).cos()
    y.copy_(b)
    z.copy_(a)
    wide = torch.ops.prims.convert_element_type(a, torch.float64)
    return (a @ b).relu(), torch.cat([a, b], 1).sum(1), b.unbind(1)[0], wide.cos()


def captured(function=block, *shapes, device=CPU) -> PostGrad:
    mode = capturing.fake_mode()
    with mode:
        inputs = [torch.empty(shape) for shape in shapes or [(4, 8)] * 3]
    (graph,) = capturing.capture(function, inputs, {}, device, mode)
    return graph


def traced(function, *shapes, dtype=torch.float32) -> torch.fx.GraphModule:
    inputs = [torch.empty(shape, dtype=dtype) for shape in shapes]
    return make_fx(function, tracing_mode="fake")(*inputs)


def otherwise(module: torch.fx.GraphModule, seed: int) -> torch.fx.GraphModule:
    """The same graph: nodes that do not depend on each other in another order, other names."""
    dice = random.Random(seed)
    left = list(copy_graph(module).graph.nodes)
    written: torch.fx.Graph = torch.fx.Graph()
    new: dict[torch.fx.Node, torch.fx.Node] = {}
    # What is written into keeps its place behind what reads it: that is order that means something.
    last = [n for n in left if n.op == "output" or "copy_" in str(n.target)]
    while left:
        free = [n for n in left if all(x in new for x in n.all_input_nodes) and n not in last]
        node = dice.choice(free) if free else next(n for n in left if n in last)
        left.remove(node)
        new[node] = written.node_copy(node, new.__getitem__)
        new[node].name = f"{'zyx'[dice.randrange(3)]}{len(new)}"
        new[node].meta["was"] = node.name
    return torch.fx.GraphModule(module, written)


# Keys.


@pytest.mark.parametrize("seed", range(4))
def test_a_key_is_without_names_and_the_order_of_what_does_not_depend_on_each_other(seed):
    module = traced(writes, *[(8, 8)] * 3)
    one, other = canonical(module), canonical(otherwise(module, seed))
    assert [n.name for n in one.nodes] != [n.name for n in other.nodes]
    assert one.lines == other.lines


def test_places_name_the_same_nodes_however_a_graph_is_written_down():
    """Two layers of one kind: their weights only differ in who reads what is made of them."""

    def layers(x, v, w):
        a, b = (x @ v).relu(), (x @ w).relu()
        return a.sum(0), b.amax(0), a * 2 - b

    module = traced(layers, (8, 8), (8, 8), (8, 8))
    names = [node.name for node in canonical(module).nodes]
    for seed in range(8):
        other = canonical(otherwise(module, seed))
        assert [node.meta["was"] for node in other.nodes] == names


@pytest.mark.parametrize(
    ("function", "shapes", "dtype"),
    [
        (lambda x, y: (x + y).sum(1), [(8, 8), (8, 8)], torch.float32),
        (lambda x, y: (x - y).sum(0), [(8, 8), (8, 8)], torch.float32),
        (lambda x, y: (x + x).sum(0), [(8, 8), (8, 8)], torch.float32),
        (lambda x, y: (x + y.t()).sum(0), [(8, 8), (8, 8)], torch.float32),
        (lambda x, y: (x + y).sum(0), [(8, 9), (8, 9)], torch.float32),
        (lambda x, y: (x + y).sum(0), [(8, 8), (1, 8)], torch.float32),
        (lambda x, y: (x + y).sum(0), [(8, 8), (8, 8)], torch.bfloat16),
        (lambda x, y: ((x + y).sum(0), x + y), [(8, 8), (8, 8)], torch.float32),
    ],
)
def test_another_graph_has_another_key(function, shapes, dtype):
    base = canonical(traced(lambda x, y: (x + y).sum(0), (8, 8), (8, 8)))
    assert canonical(traced(function, *shapes, dtype=dtype)).digest != base.digest


def test_a_key_is_of_device_numerics_and_settings(monkeypatch):
    graph = captured()
    form = canonical(graph.module)
    key = plan_key(form, graph, STRONG, CPU)
    assert plan_key(form, graph, parse("tune"), CPU) == plan_key(form, graph, parse("plan"), CPU)
    assert plan_key(form, graph, parse(STRONG, {"plans": "x"}), CPU) == key
    others = [
        plan_key(form, graph, parse("plan"), CPU),
        plan_key(form, graph, parse(STRONG, {"numerics": "stock"}), CPU),
        plan_key(form, graph, STRONG, DEVICES["h200"]),
        plan_key(form, replace(graph, is_inference=False), STRONG, CPU),
    ]
    with torch._inductor.config.patch({"split_reductions": False}):
        others.append(plan_key(form, graph, STRONG, CPU))
    with torch._inductor.config.patch({"max_autotune": True, "debug": True}):
        assert plan_key(form, graph, STRONG, CPU) == key
    assert len({key, *others}) == 6


#: What these keys are on every torch from 2.11 to 2.15, on every machine.  If our own rules change,
#: raise the version in plan_key.py and put the new ones here.
EXPECTED = ("092dbc134b3d4d2e69aad2507c762fc6", "81f48eae676626fcb2ffcdf973a2fba8")


def keys() -> tuple[str, ...]:
    graphs = {device: captured(device=device) for device in (CPU, DEVICES["h200"])}
    return tuple(plan_key(canonical(g.module), g, STRONG, device) for device, g in graphs.items())


def test_a_key_is_the_same_on_every_torch():
    assert keys() == EXPECTED


@pytest.mark.full
@pytest.mark.e2e
@pytest.mark.parametrize("seed", ["1", "2"])
def test_a_key_is_the_same_in_every_process(seed):
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            "import test_plan_files; print(test_plan_files.keys())",
        ],
        capture_output=True,
        text=True,
        check=True,
        env={
            **os.environ,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join([here, *filter(None, sys.path)]),
        },
    )
    assert done.stdout.strip() == str(EXPECTED)


def test_what_two_ranks_have_for_themselves_is_in_no_key():
    def part_from(n):
        return lambda x: torch.where(x >= n, x - n, 0)[n : n + 2].sum(0)

    one, other = (canonical(traced(part_from(n), (8, 8))) for n in (2, 4))
    assert one.digest == other.digest
    pad = torch.ops.aten.constant_pad_nd
    padded = [
        canonical(traced(function, (8, 8)))
        for function in (lambda x: pad(x, [1, 1], 0.0), lambda x: pad(x, [1, 1], 0.1))
    ]
    assert padded[0].digest != padded[1].digest  # what fills may have to be rounded


def test_symbolic_sizes_have_names_of_our_own_and_count_with_their_hints():
    def form(rows, before):
        mode = capturing.fake_mode()
        with mode:
            x = torch.empty(rows, 64)
            other = torch.empty(before, 16)
        graphs = capturing.capture(
            lambda x, other: ((x * 2).sum(0), other.sum(1)), (x, other), {}, CPU, mode, dynamic=True
        )
        return canonical(graphs[0].module).digest

    assert form(40, 20) == form(40, 20) != form(48, 20)


# Decisions.


def test_a_decision_is_the_same_after_it_was_written_down():
    module = traced(writes, *[(8, 8)] * 3)
    form = canonical(module)
    names = [node.name for node in form.nodes if node.op == "call_function"]
    given = Decision(
        store=frozenset(names[:3]),
        rounded=frozenset(names[2:4]),
        marked=frozenset(names[:4]),
        casts=frozenset(n.name for n in form.nodes if "convert_element_type" in str(n.target)),
    )
    assert given.casts
    graph = captured()
    plan, _ = plan_of(graph, STRONG, CPU)
    plan = replace(
        plan, nodes=len(form.nodes), planned=True, decisions=plan_files.nodes_of(form, given)
    )
    read = PLAN_FILE.from_json(json.loads(json.dumps(PLAN_FILE.to_json(plan))))
    assert plan_files.decision_of(read, form) == given
    if NESTED_REDUCTIONS in torch._inductor.config._config:
        switched = replace(read, settings=(NESTED_REDUCTIONS,))
        switched = PLAN_FILE.from_json(json.loads(json.dumps(PLAN_FILE.to_json(switched))))
        found = plan_files.decision_of(switched, form)
        assert found == replace(given, settings=frozenset({NESTED_REDUCTIONS}))
        assert plan_files.without_findings(found) == found
    # In another order and under other names it is about the same nodes.
    other = canonical(otherwise(module, 1))
    moved = plan_files.decision_of(read, other)
    assert plan_files.nodes_of(other, moved) == plan_files.nodes_of(form, given)
    for wrong in (
        replace(read, nodes=read.nodes + 1),
        replace(read, decisions=(replace(read.decisions[0], place=10**6),)),
        replace(read, decisions=(replace(read.decisions[0], operator="aten.tan.default"),)),
        replace(read, decisions=(replace(read.decisions[0], decided=("unheard of",)),)),
        replace(read, planned=False),
        replace(read, settings=("max_autotune",)),
    ):
        assert plan_files.decision_of(wrong, form) is None


# In a compile.


@pytest.fixture(scope="module")
def made():
    plan, _ = plan_of(captured(), STRONG, CPU)
    assert plan.planned
    assert plan.decisions
    assert plan.plan.bytes < plan.stock.bytes
    assert all(one.source.split(":")[0].endswith("test_plan_files.py") for one in plan.decisions)
    return plan


@pytest.fixture
def compiled(dynamo, monkeypatch, caplog):
    """Compiles `block` by the files in a folder: the decision, whether it was searched, the log."""
    caplog.set_level(logging.INFO, logger="torch_materialize")
    monkeypatch.delenv(plan_file.FOLDER_VARIABLE, raising=False)

    def run(**options):
        torch._dynamo.reset()
        caplog.clear()
        decisions, searched = [], []
        usual, prepare = graph_lowering.search, graph_lowering.prepare

        def search(*args, **kwargs):
            searched.append(1)
            return usual(*args, **kwargs)

        def note(module, found, numerics):
            # What no cast is need not be kept from being folded.
            decisions.append({**names_of(found), "casts": None})
            return prepare(module, found, numerics)

        torch.manual_seed(0)
        inputs = [torch.randn(4, 8) for _ in range(3)]
        with monkeypatch.context() as patch:
            patch.setattr(graph_lowering, "search", search)
            patch.setattr(graph_lowering, "prepare", note)
            results = torch.compile(block, options=tm.options(STRONG, **options))(*inputs)
        torch.testing.assert_close(results, block(*inputs))
        return decisions, bool(searched), caplog.text

    return run


def test_a_compile_goes_by_a_file_and_does_not_search(compiled, made, tmp_path, monkeypatch):
    wanted, searched, _ = compiled()
    assert searched
    save(made, tmp_path)
    found, searched, said = compiled(plans=tmp_path)
    assert not searched
    assert found == wanted
    assert said.count(f"as plan file {made.key} decides") == 1
    monkeypatch.setenv(plan_file.FOLDER_VARIABLE, str(tmp_path))
    assert compiled()[:2] == (wanted, False)
    monkeypatch.setenv(plan_file.FOLDER_VARIABLE, str(tmp_path / "elsewhere"))
    assert compiled(plans=tmp_path)[:2] == (wanted, False)  # what is named in the program wins


def test_the_lowering_that_checks_a_file_is_what_ships(compiled, made, tmp_path, scheduled):
    save(made, tmp_path)
    (found, *_), searched, _ = compiled(plans=tmp_path)
    assert found["store"]
    assert not searched
    assert len(scheduled) == 1


@pytest.mark.full
def test_a_file_that_says_stock_needs_no_lowering(compiled, made, tmp_path, monkeypatch):
    stock = replace(made, planned=False, decisions=(), plan=made.stock)
    save(replace(stock, check=replace(made.check, plan=made.check.stock)), tmp_path)
    monkeypatch.setattr(plan_files, "trial", lambda *_args, **_how: pytest.fail("lowered"))
    (found, *_), searched, said = compiled(plans=tmp_path)
    assert found["store"] is None
    assert not searched
    assert "left to stock" in said


def _claims_less(plan):
    check = plan.check
    return replace(plan, check=replace(check, plan=replace(check.plan, bytes=check.plan.bytes - 8)))


def _of_another_size(plan):
    return replace(plan, check=replace(plan.check, nodes=plan.check.nodes + 1))


def _of_another_torch(plan):
    """Where stock moves something else than it did there."""
    stock = replace(plan.check.stock, bytes=plan.check.stock.bytes + 8)
    versions = {**plan.versions, "torch": "2.10.0"}
    return replace(plan, versions=versions, check=replace(plan.check, stock=stock))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_claims_less, "it should move"),
        (_of_another_size, "without repeated layers"),
        (_of_another_torch, "stock should move"),
        (lambda plan: replace(plan, nodes=1), "nodes that the graph has not"),
    ],
)
def test_what_is_not_as_claimed_is_searched_anew_and_said_once(
    compiled, made, tmp_path, change, said
):
    save(change(made), tmp_path)
    found, searched, text = compiled(plans=tmp_path)
    assert searched
    assert found[0]["store"]
    lines = [line for line in text.splitlines() if "WARNING" in line]
    assert len(lines) == 1
    assert f"searched anew: plan file {made.key}" in lines[0]
    assert said in lines[0]


def test_a_file_of_another_torch_is_used_where_stock_is_as_it_was_there(compiled, made, tmp_path):
    save(replace(made, versions={**made.versions, "torch": "2.10.0"}), tmp_path)
    assert not compiled(plans=tmp_path)[1]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"schema": "torch-materialize/tuned", "version": 1}',
        b'{"schema": "torch-materialize/plan", "version": 99, "writer": "torch-materialize 9"}',
        b'{"schema": "torch-materialize/plan", "version": 1, "key": 1}',
        b"\x1f\x8b not compressed",
    ],
)
def test_a_file_that_cannot_be_read_is_searched_and_said_once(compiled, made, tmp_path, content):
    path = save(made, tmp_path)
    path.write_bytes(content)
    found, searched, text = compiled(plans=tmp_path)
    assert searched
    assert found[0]["store"]
    lines = [line for line in text.splitlines() if "WARNING" in line]
    assert len(lines) == 1
    assert made.key in lines[0]
    assert path.read_bytes() == content  # what somebody else may still read is left alone


def test_a_folder_that_is_not_there_is_said_once(compiled, tmp_path):
    _, searched, text = compiled(plans=tmp_path / "missing")
    assert searched
    lines = [line for line in text.splitlines() if "WARNING" in line]
    assert len(lines) == 1
    assert "torch-materialize plan TARGET -o" in lines[0]


# Cache keys.


def key_with(folder) -> object:
    return PolicyPass(parse("plan", {"plans": str(folder)} if folder else {})).uuid()


def test_what_files_say_is_in_the_key_and_where_they_lie_is_not(made, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    save(made, one)
    save(made, other)
    without, first = key_with(None), key_with(one)
    assert first not in (None, without)
    assert key_with(other) == first
    save(replace(made, planned=False, decisions=()), other)
    assert key_with(other) not in (None, without, first)
    (other / f"{made.key}.plan.json").unlink()
    assert key_with(other) == without
    (other / "notes.txt").write_text("nothing that decides")
    assert key_with(other) == without


# Writers and readers at once.


def test_readers_see_whole_files_while_others_write(made, tmp_path):
    save(made, tmp_path)
    kinds = [made, replace(made, policy="plan:numerics=eager")]
    done = threading.Event()

    def write(plan):
        while not done.is_set():
            save(plan, tmp_path)

    writers = [threading.Thread(target=write, args=(plan,)) for plan in kinds]
    for one in writers:
        one.start()
    try:
        for _ in range(200):
            assert in_folder(tmp_path).find(made.key) in kinds
    finally:
        done.set()
        for one in writers:
            one.join()
    assert [path.name for path in tmp_path.iterdir()] == [f"{made.key}.plan.json"]


# Ranks.


@pytest.fixture
def group(monkeypatch):
    """A process group whose ranks this process plays, one after the other."""
    store = dist.HashStore()
    for module in (plan_files, process_group):
        monkeypatch.setattr(module, "has_ranks", lambda: True)
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: store)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    plan_files._published.cache_clear()
    yield
    plan_files._published.cache_clear()


def of_rank(folder, monkeypatch) -> plan_file.Plans | None:
    monkeypatch.setenv(plan_file.FOLDER_VARIABLE, str(folder or ""))
    plan_files._published.cache_clear()  # a process of its own
    return plan_files.plans_for(STRONG)


def test_a_rank_without_files_goes_by_those_of_the_first(
    group, lenient, made, tmp_path, monkeypatch
):
    save(made, tmp_path)
    assert of_rank(tmp_path, monkeypatch).find(made.key) == made
    assert of_rank(None, monkeypatch).find(made.key) == made
    assert lenient.text.count("goes by that rank's") == 1


def test_ranks_go_without_files_where_the_first_has_none(
    group, lenient, made, tmp_path, monkeypatch
):
    save(made, tmp_path)
    assert of_rank(None, monkeypatch) is None
    assert of_rank(tmp_path, monkeypatch) is None
    assert lenient.text.count("goes by that rank's") == 1


def test_more_files_than_ranks_can_share_are_nobodys(group, lenient, made, tmp_path, monkeypatch):
    save(made, tmp_path)
    monkeypatch.setattr(plan_files, "_LARGEST", 10)
    assert of_rank(tmp_path, monkeypatch) is None
    assert "too many for the ranks" in lenient.text
