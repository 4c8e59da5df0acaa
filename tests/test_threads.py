"""What we do in one thread is not seen by another."""

from __future__ import annotations

import copy
import gc
import logging
import os
import re
import stat
import threading

import pytest
import torch
from torch._dynamo.convert_frame import compile_lock
from torch._dynamo.utils import counters
from torch._inductor import config, metrics
from torch._inductor import graph as inductor_graph
from torch._inductor import scheduler as inductor_scheduler
from torch._inductor.compile_fx import compile_fx
from torch._inductor.graph import GraphLowering

import torch_materialize as tm
from torch_materialize import events
from torch_materialize.core.devices import CPU, DEVICES
from torch_materialize.core.policy import STOCK
from torch_materialize.inductor.fx.decision import NO_CHANGE
from torch_materialize.inductor.hooks import graph_lowering
from torch_materialize.inductor.lower import trial
from torch_materialize.inductor.lower.realize import as_stock, undecided
from torch_materialize.inductor.lower.virtual_gpu import planned_device
from torch_materialize.inductor.offline import capture as capturing
from torch_materialize.inductor.offline.dry_run import dry_run
from torch_materialize.inductor.plan import timed
from torch_materialize.results import base

_COUNTING = "realize_reads_threshold"


def chain(x):
    y = x * 2 + x.sin()
    return [torch.softmax(y.roll(i, 0), -1) for i in range(4)]


def elsewhere(act):
    """What ``act`` returns in a thread of its own."""
    found = []
    thread = threading.Thread(target=lambda: found.append(act()))
    thread.start()
    thread.join(500)
    assert found, "the other thread failed"
    return found[0]


def captured(fn, *shapes):
    mode = capturing.fake_mode()
    with mode:
        inputs = [torch.empty(shape) for shape in shapes]
    (graph,) = capturing.capture(fn, inputs, {}, CPU, mode)
    return graph


@pytest.fixture
def graph():
    # Two kernels, and an operator that Inductor counts.
    return captured(lambda x: (x * 2).softmax(-1) @ x.T, (64, 32))


def figures():
    """Whatever Inductor and Dynamo count; what is empty was not counted."""
    counted = {name: dict(counter) for name, counter in counters.items() if counter}
    for name, value in vars(metrics).items():
        if not name.startswith("_") and isinstance(value, int | float | list):
            counted[name] = copy.copy(value)
    return counted


def test_a_file_is_as_readable_as_any_and_the_umask_is_left_alone(tmp_path, monkeypatch):
    before = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", lambda _mask: pytest.fail("seen by every thread"))
        base.write_whole(tmp_path / "record.json", b"{}")
    finally:
        monkeypatch.undo()
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "record.json").stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_a_file_that_cannot_be_put_in_place_leaves_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        base.write_whole(tmp_path / "folder", b"{}")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    ("root", "ours", "asked"),
    [
        (logging.DEBUG, logging.NOTSET, False),
        (logging.WARNING, logging.INFO, False),
        (logging.WARNING, logging.DEBUG, True),
    ],
)
@pytest.mark.full
def test_only_a_level_of_our_own_logger_asks_for_details(root, ours, asked, monkeypatch, dynamo):
    """TORCH_LOGS=+torch_materialize sets it; a program that debugs itself wants nothing."""
    seen = []
    upstream = graph_lowering.search
    monkeypatch.setattr(
        graph_lowering,
        "search",
        lambda *args, certify: seen.append(certify) or upstream(*args, certify=certify),
    )
    monkeypatch.setattr(logging.getLogger(), "level", root)
    monkeypatch.setattr(events.log, "level", ours)
    logging.getLogger().manager._clear_cache()
    try:
        torch.compile(chain, options=tm.options("plan"))(torch.ones(256, 64))
    finally:
        monkeypatch.undo()
        logging.getLogger().manager._clear_cache()
    assert seen == [asked]


def test_torch_logs_sets_the_level_of_our_own_logger():
    from torch._logging import _internal

    state = _internal._parse_log_settings("+torch_materialize")
    assert ("torch_materialize", logging.DEBUG) in list(state.get_log_level_pairs())


def test_garbage_is_collected_while_a_graph_is_planned(graph, monkeypatch):
    seen = []
    upstream = trial.lowered
    monkeypatch.setattr(
        "torch_materialize.inductor.lower.trial.lowered",
        lambda *args: seen.append((gc.isenabled(), gc.get_threshold())) or upstream(*args),
    )
    before = gc.isenabled(), gc.get_threshold()
    dry_run(graph, tm.Policy("plan"), CPU)
    assert seen and set(seen) == {before}


def test_a_dry_run_counts_apart(graph):
    """Another thread sees nothing of it, and loses nothing of what it counts meanwhile."""
    counters["inductor"]["torch_materialize_test"] = 1
    metrics.nodes_num_elem.append("before")
    try:
        before = figures()

        def count():
            seen = figures()
            counters["inductor"]["torch_materialize_test"] += 1
            counters["torch_materialize_test"]["new"] += 3
            metrics.generated_kernel_count += 5
            metrics.nodes_num_elem.append("meanwhile")
            return seen

        with trial.lowered(graph, NO_CHANGE, "", STOCK, GraphLowering):
            assert metrics.ir_nodes_pre_fusion > before["ir_nodes_pre_fusion"]
            counters["inductor"]["torch_materialize_test"] += 100
            assert counters["inductor"]["torch_materialize_test"] == 101
            assert elsewhere(count) == before
            assert elsewhere(figures) != before
        after = figures()
        assert after["inductor"]["torch_materialize_test"] == 2
        assert after["torch_materialize_test"] == {"new": 3}
        assert after["generated_kernel_count"] == before["generated_kernel_count"] + 5
        assert after["nodes_num_elem"][-2:] == ["before", "meanwhile"]
        assert after["ir_nodes_pre_fusion"] == before["ir_nodes_pre_fusion"]
    finally:
        counters.clear()
        metrics.reset()


@pytest.mark.parametrize("module", [inductor_graph, inductor_scheduler], ids=lambda m: m.__name__)
def test_a_dry_run_takes_no_number_of_a_graph(graph, module):
    name = "_post_grad_graph_counter"
    numbering = getattr(module, name)
    first = next(numbering)
    with trial.lowered(graph, NO_CHANGE, "", STOCK, GraphLowering):
        assert elsewhere(lambda: next(getattr(module, name))) == first + 1
    assert getattr(module, name) is numbering
    assert next(numbering) == first + 2


def test_what_counts_is_upstreams_again(graph):
    kinds = type(metrics), type(counters["inductor"]), counters.default_factory
    with trial.lowered(graph, NO_CHANGE, "", STOCK, GraphLowering):
        pass
    assert (type(metrics), type(counters["inductor"]), counters.default_factory) == kinds


def settings():
    return {name: getattr(config, name) for name in (_COUNTING, "max_autotune", "benchmark_fusion")}


def test_settings_of_ours_are_of_our_thread(graph):
    before = elsewhere(settings)
    digest = elsewhere(config.get_hash)
    with trial.lowered(graph, NO_CHANGE, "", STOCK, GraphLowering), undecided():
        assert getattr(config, _COUNTING) > 1000
        assert elsewhere(settings) == before
        assert elsewhere(config.get_hash) == digest
        with as_stock():
            assert getattr(config, _COUNTING) == before[_COUNTING]
        with config.patch({_COUNTING: 7}):
            assert getattr(config, _COUNTING) == 7
        assert getattr(config, _COUNTING) > 1000
    assert settings() == elsewhere(settings) == before


def test_settings_of_the_user_stay_the_users():
    with config.patch({_COUNTING: 7}):
        with undecided():
            with as_stock():
                assert getattr(config, _COUNTING) == 7
            assert getattr(config, _COUNTING) > 1000
        assert getattr(config, _COUNTING) == 7
        setattr(config, _COUNTING, 8)
        assert getattr(config, _COUNTING) == 8
    assert getattr(config, _COUNTING) == 4


def test_no_other_thread_compiles_for_a_gpu_that_is_not_there():
    with planned_device(DEVICES["h200"]):
        assert not elsewhere(lambda: compile_lock.acquire(blocking=False))


def stock_program(x, w):
    y = x * 2 + 1
    return (y @ w).relu() * y, y.sum(-1), (y.exp() + y.sin()).softmax(-1)


def stock_compile(sources):
    """A compile that does not take Dynamo's lock, its code put into ``sources``."""
    graph = torch.fx.Graph()
    x, w = (graph.placeholder(name) for name in "xw")
    y = graph.call_function(torch.ops.aten.add.Tensor, (x, 1.0))
    z = graph.call_function(torch.ops.aten.mm.default, (y, w))
    graph.output((graph.call_function(torch.ops.aten.mul.Tensor, (z, y)), y))
    module = torch.fx.GraphModule(torch.nn.Module(), graph)
    compile_fx(module, [torch.ones(16, 16), torch.ones(16, 16)])
    return list(sources[threading.get_ident()])


def plain(code):
    """Code without the running number of its graph."""
    return re.sub(r"# AOT ID: .*", "", code)


@pytest.fixture
def sources(monkeypatch):
    """The code of each graph, by the thread that compiled it."""
    found: dict[int, list[str]] = {}
    monkeypatch.setattr(
        GraphLowering,
        "save_output_code",
        staticmethod(lambda code: found.setdefault(threading.get_ident(), []).append(plain(code))),
    )
    return found


def test_a_compile_beside_a_dry_run_is_as_alone(graph, sources, dynamo):
    def alone():
        sources.clear()
        counters.clear()
        metrics.reset()
        return elsewhere(lambda: stock_compile(sources)), figures()

    code, counted = alone()
    counters.clear()
    metrics.reset()
    sources.clear()
    with trial.lowered(graph, NO_CHANGE, "", STOCK, GraphLowering), undecided():
        beside = elsewhere(lambda: stock_compile(sources))
    assert beside == code
    assert figures() == counted


@pytest.mark.full
def test_two_threads_compile_as_each_alone(sources, dynamo):
    """One under plan, one stock: the stock one's code is its own, and all that was counted is
    what both count alone."""

    def governed():
        torch.compile(chain, options=tm.options("plan"))(torch.randn(256, 64))

    def stock():
        torch.compile(stock_program)(torch.randn(64, 64), torch.randn(64, 64))

    def run(*programs):
        torch._dynamo.reset()
        counters.clear()
        metrics.reset()
        sources.clear()
        start = threading.Barrier(len(programs))
        by_program = {}

        def work(program):
            start.wait()
            program()
            by_program[program] = list(sources[threading.get_ident()])

        threads = [threading.Thread(target=work, args=(p,)) for p in programs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return by_program, figures()

    one, first = run(governed)
    two, second = run(stock)
    both, total = run(governed, stock)
    assert both[stock] == two[stock]
    assert both[governed] == one[governed]
    for name, counted in total.items():
        if isinstance(counted, int):
            assert counted == first[name] + second[name], name
    keys = {*first["inductor"], *second["inductor"]}
    summed = {k: first["inductor"].get(k, 0) + second["inductor"].get(k, 0) for k in keys}
    assert total["inductor"] == summed


def test_timing_a_graph_without_random_numbers_leaves_the_generator_alone(graph):
    """What another thread draws meanwhile would be drawn again."""
    start = torch.random.get_rng_state()
    inputs = timed.made_up(graph)
    assert inputs[0].unique().numel() > 1
    assert torch.equal(torch.random.get_rng_state(), start)
    with timed.outside(graph):
        drawn = elsewhere(lambda: torch.rand(8))
    assert not torch.equal(torch.rand(8), drawn)


def test_timing_a_graph_with_random_numbers_puts_the_state_back():
    graph = captured(lambda x: torch.nn.functional.dropout(x, 0.5), (64, 32))
    start = torch.random.get_rng_state()
    with timed.outside(graph):
        torch.rand(8)
    assert torch.equal(torch.random.get_rng_state(), start)
