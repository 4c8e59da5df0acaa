"""Every analysis of ours is linear, or capped by counts: what doubles must not grow fourfold.

Counted are lines of ours that run, not seconds.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sympy
import torch

import torch_materialize
from reported import explanation
from test_gathers import captured, indices
from torch_materialize.core import cones as reach
from torch_materialize.core.dag import Dag, Fused, Kind, Value, moved
from torch_materialize.core.devices import DEVICES
from torch_materialize.core.limits import Limits, limits_for
from torch_materialize.core.planner import plan
from torch_materialize.core.policy import STOCK
from torch_materialize.core.program import Program
from torch_materialize.inductor.fx import layers
from torch_materialize.inductor.fx.post_grad import PostGrad
from torch_materialize.inductor.fx.rounding import _widened_from
from torch_materialize.inductor.offline.dry_run import dry_run
from torch_materialize.inductor.read import gathers, tracer
from torch_materialize.inductor.read.schedule import Schedule
from torch_materialize.report.payload import payload

OURS = str(Path(torch_materialize.__file__).parent)
# For twice the size; quadratic is 4.
LINEAR = 2.6
READING = tuple(f"inductor/read/{name}.py" for name in ("dag", "nodes", "internals", "values"))
GATHERS = tuple(f"inductor/read/{name}.py" for name in ("gathers", "tracer", "columns"))


def lines(work: Callable[[], Any], *files: str) -> int:
    """Lines of ours that ``work`` runs, those of a loop each time; of ``files`` alone if named."""
    missing = [name for name in files if not Path(OURS, name).is_file()]
    assert not missing, missing
    count = 0

    def within(frame: Any, event: str, _argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return within

    def entered(frame: Any, _event: str, _argument: Any) -> Any:
        name = frame.f_code.co_filename
        ours = name.startswith(OURS) and (not files or name.endswith(files))
        return within if ours else None

    before = sys.gettrace()
    sys.settrace(entered)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def lowered(function: Any, *inputs: Any, device: str = "cpu") -> Callable[[], Any]:
    graph = captured(function, *inputs, device=device)
    return lambda: dry_run(graph, STOCK, DEVICES[device])


# The page: pairs of kernels, their code, every tensor's story.


@pytest.mark.parametrize(
    "file",
    ["core/traffic.py", "core/graph.py", "results/pairs.py", "report/payload.py", "report/why.py"],
)
def test_a_page_grows_with_its_model(file):
    made = [explanation(layers=layers) for layers in (60, 120)]
    counts = [lines(functools.partial(payload, one), file) for one in made]
    assert counts[1] < LINEAR * counts[0]


# Gathers: what a kernel reads through indices.


def fractional(window: int) -> Callable[[], Any]:
    def pool(x, samples):
        return torch.ops.aten.fractional_max_pool2d(x, (window, 2), (3, 3), samples)

    return lowered(pool, (2, 3, 16, 16), (2, 3, 2))


def test_values_of_a_loop_take_no_more_values_than_it_has_points(monkeypatch):
    """Found by `fractional_max_pool2d`: their number had twice the digits after each operation."""
    largest, default = {0}, tracer.Tracer._default

    def noting(self, *arguments):
        value = default(self, *arguments)
        largest.add(value.most)
        return value

    monkeypatch.setattr(tracer.Tracer, "_default", noting)
    for window in (3, 6):
        fractional(window)()
    assert len(largest) > 1
    assert max(largest) <= 2 * 3 * 3 * 3


def test_a_window_twice_as_large_is_read_in_twice_the_steps():
    small, large = (lines(fractional(window), *GATHERS) for window in (3, 6))
    assert small > 1_000
    assert large < LINEAR * small


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        pytest.param(
            lambda x: torch.nn.functional.interpolate(x, size=(9, 7), mode="bicubic"),
            [(1, 2, 8, 8)],
            marks=pytest.mark.full,
        ),
        (
            lambda x, grid: torch.nn.functional.grid_sample(x, grid, align_corners=False),
            [(1, 2, 8, 8), (1, 4, 4, 2)],
        ),
        (lambda x: torch.nn.functional.adaptive_avg_pool2d(x, (5, 5)) * 2, [(1, 2, 17, 17)]),
    ],
)
def test_reading_a_kernel_takes_a_few_steps_for_each_operation(function, inputs):
    work = lowered(function, *inputs)
    assert lines(work, *GATHERS, "inductor/read/kernels.py") < 50_000


def rows(ids_of: Callable[[Any], Any]) -> Any:
    return lambda table, ids: table[ids_of(ids)].exp()


@pytest.mark.parametrize("limit", ["_MOST_OPERATIONS", "_MOST_REPLACED", "_MOST_TERMS"])
def test_a_body_that_is_too_large_counts_each_access(monkeypatch, limit):
    def two(table, ids):
        return table[ids] * table[ids].flip(-1)

    graph = captured(two, (1000, 8), indices(16), device="h200")

    def read() -> int:
        (kernel,) = dry_run(graph, STOCK, DEVICES["h200"]).graph.fused()
        return kernel.reads["arg0_1"]

    known = read()
    monkeypatch.setattr(gathers, limit, 0)
    assert known == 16 * 8 * 4  # the same rows twice
    assert read() == 2 * known


def test_and_never_more_than_the_buffer(monkeypatch):
    graph = captured(rows(lambda ids: ids), (4, 8), indices(16), device="h200")
    monkeypatch.setattr(gathers, "_MOST_OPERATIONS", 0)
    (kernel,) = dry_run(graph, STOCK, DEVICES["h200"]).graph.fused()
    assert kernel.reads["arg0_1"] == 4 * 8 * 4


def test_terms_are_counted_before_anything_is_multiplied_out():
    a, b = sympy.symbols("a b", integer=True)
    assert gathers._terms(a + 2 * b + 1) == 3
    assert gathers._terms((a + b) * (a + 1)) == 4
    assert gathers._terms((a + b + 1) ** 50) > gathers._MOST_TERMS
    assert gathers._terms(sympy.Add(*sympy.symbols("x:5000"))) > gathers._MOST_TERMS


# The planner.


def chain(count: int) -> Dag:
    """A residual stream between matmuls: each kernel could compute all that came before it."""
    values: list[Value] = []
    kernels: list[Fused] = []

    def add(kind: Kind, *inputs: int, **fields: Any) -> int:
        index = len(values)
        values.append(Value(index, f"n{index}", kind, 400, 100, inputs, index, **fields))
        return index

    stream, mask = add(Kind.SOURCE), add(Kind.SOURCE)
    for place in range(count):
        product = add(Kind.SOURCE, ready=2 * place - 1)
        stream = add(Kind.POINTWISE, stream, product)
        scaled = add(Kind.POINTWISE, stream, mask)
        out = add(Kind.POINTWISE, scaled, required=True)
        # Inductor writes it where it has been recomputed for too long.
        writes = (out, stream) if place % 8 == 7 else (out,)
        kernels.append(Fused(place, f"k{place}", 2 * place, writes, frozenset({100})))
    return Dag(tuple(values), tuple(kernels))


def test_what_a_kernel_could_compute_is_found_in_linear_time():
    def found(count: int) -> int:
        dag = chain(count)
        now = moved(dag, dag.homes())
        return lines(lambda: reach.cones(dag, now, 24), "core/cones.py")

    assert found(400) < LINEAR * found(200)


@pytest.mark.parametrize("count", [20, 150])
def test_the_size_of_a_program_is_known_before_it_is_made(count):
    dag = chain(count)
    cones = reach.cones(dag, moved(dag, dag.homes()), Limits().body)
    program = Program(dag, cones, Limits())
    known = reach.entries(dag, cones)
    assert known < reach.MOST_ENTRIES
    assert 0.5 < known / sum(map(len, program._rows)) < 2


def test_kernels_that_reach_too_far_reach_less_far(monkeypatch):
    dag = chain(40)
    now = moved(dag, dag.homes())
    far = reach.cones(dag, now, Limits().body)
    monkeypatch.setattr(reach, "MOST_ENTRIES", reach.entries(dag, far) - 1)
    near = reach.cones(dag, now, Limits().body)
    assert reach.entries(dag, near) < reach.entries(dag, far)
    assert plan(dag, Limits()).store  # and the plan still finds the stream


def test_a_program_that_is_too_large_leaves_the_dry_runs_decisions(monkeypatch):
    dag = chain(10)
    monkeypatch.setattr("torch_materialize.core.program.MOST_ENTRIES", 10)
    planned = plan(dag, Limits())
    assert planned.homes == dag.homes()
    assert planned.unsolved


# Graphs.


@pytest.mark.full
def test_a_graph_of_many_short_stacks_is_shortened_in_linear_time():
    def steps(count: int) -> int:
        graph = torch.fx.Graph()
        for size in range(count):
            node = graph.placeholder(f"x{size}")
            node.meta["val"] = torch.empty(8, 8 + size, device="meta")
            for _ in range(6):
                for target in (torch.ops.aten.neg.default, torch.ops.aten.sin.default):
                    last, node = node, graph.call_function(target, (node,))
                    node.meta = dict(last.meta)
            graph.output(node) if size == count - 1 else None
        module = torch.fx.GraphModule(torch.nn.Module(), graph)
        return lines(lambda: layers.shorten(PostGrad(module, (), None)), "inductor/fx/layers.py")

    assert steps(24) > 10_000
    assert steps(48) < LINEAR * steps(24)


def test_versions_of_a_buffer_are_followed_once():
    schedule = object.__new__(Schedule)
    schedule._last = {}
    schedule.next_version = {f"b{i}": f"b{i + 1}" for i in range(3000)}

    def follow() -> None:
        assert all(schedule.last_version(f"b{i}") == "b3000" for i in range(3000))

    assert lines(follow, "inductor/read/schedule.py") < 40_000
    assert schedule.last_version("other") == "other"


def test_a_row_of_casts_is_followed_a_few_steps():
    graph = torch.fx.Graph()
    node = graph.placeholder("x")
    node.meta["val"] = torch.empty(2, dtype=torch.bfloat16)
    for place in range(1000):
        dtype = torch.bfloat16 if place % 2 else torch.float32
        node = graph.call_function(torch.ops.prims.convert_element_type.default, (node, dtype))
        node.meta["val"] = torch.empty(2, dtype=dtype)
    assert lines(lambda: _widened_from(node), "inductor/fx/rounding.py") < 1_000


def many(count: int) -> Callable[[], Any]:
    """One concatenation of many parts, each of which is a buffer of its own."""

    def join(*xs):
        return torch.cat([x * 2 + i for i, x in enumerate(xs)]).exp()

    return lowered(join, *[(4, 8)] * count)


def test_a_large_concatenation_is_read_in_linear_time():
    assert lines(many(32), *READING) < LINEAR * lines(many(16), *READING)


def deep(count: int) -> Any:
    def function(x):
        for place in range(count):
            x = (x * 1.01).sin() if place % 2 else x + 0.5
        return x

    return captured(function, (8, 8), device="cpu")


@pytest.mark.full
def test_a_deep_graph_is_planned_in_linear_time():
    def steps(count: int) -> int:
        graph = deep(count)
        policy = torch_materialize.Policy("plan")
        return lines(lambda: dry_run(graph, policy, DEVICES["cpu"]))

    assert steps(80) < LINEAR * steps(40)


@pytest.mark.full
@pytest.mark.long
def test_a_graph_of_thousands_of_nodes_ends():
    found = dry_run(deep(5000), torch_materialize.Policy("plan"), DEVICES["cpu"]).found
    assert found is not None
    assert limits_for(DEVICES["cpu"]).rounds >= found.rounds
