"""The planner on small graphs that a person can check by hand; no torch.

On random graphs: ``test_fuzz.py``.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from torch_materialize.core import program
from torch_materialize.core.cost import KINDS, Load, Rates
from torch_materialize.core.dag import Dag, Fused, Kind, Value, moved
from torch_materialize.core.deadline import Deadline, OutOfTime
from torch_materialize.core.limits import Limits
from torch_materialize.core.planner import misplaced, plan

WIDE, NARROW = 400, 200


class Builder:
    """Builds a graph value by value."""

    def __init__(self) -> None:
        self.values: list[Value] = []
        self.kernels: list[tuple[tuple[int, ...], int]] = []

    def value(self, kind: Kind, size: int, *inputs: int, **fields: object) -> int:
        index = len(self.values)
        node = f"n{index}"
        self.values.append(
            Value(index, node, kind, size, 100, inputs, index, **fields)  # type: ignore[arg-type]
        )
        return index

    def kernel(self, *writes: int) -> None:
        self.kernels.append((writes, len(self.kernels)))

    def dag(self) -> Dag:
        kernels = tuple(
            Fused(n, f"k{n}", 2 * n, writes, frozenset({100, 1}))
            for n, (writes, _) in enumerate(self.kernels)
        )
        bare = Dag(tuple(self.values), kernels)
        measured = [one.total(bare) for one in moved(bare, bare.homes())]
        return Dag(
            bare.values,
            tuple(
                Fused(k.index, k.name, k.position, k.writes, k.numels, m)
                for k, m in zip(kernels, measured, strict=True)
            ),
        )


def residual_chain(norms: int) -> tuple[Dag, list[int], list[int]]:
    """vLLM-style norms: each adds a new source to a residual and needs the sum in fp32.

    Returns the graph, the fp32 sums and the bf16 residuals.
    """
    build = Builder()
    sums, residuals = [], []
    residual = build.value(Kind.SOURCE, NARROW)
    for place in range(norms):
        x = build.value(Kind.SOURCE, NARROW, ready=2 * place - 1)
        total = build.value(Kind.POINTWISE, WIDE, x, residual)
        residual = build.value(Kind.POINTWISE, NARROW, total)
        out = build.value(Kind.POINTWISE, NARROW, total, required=True)
        build.kernel(out)
        sums.append(total)
        residuals.append(residual)
    return build.dag(), sums, residuals


def test_the_narrow_tensor_is_cut_and_not_the_wide_sum():
    dag, sums, residuals = residual_chain(4)
    found = plan(dag, Limits())
    # Read two, write one, for each; and the residual in between, except after the last.
    assert found.store == frozenset(residuals[:-1])
    assert not found.store & set(sums)
    assert found.predicted == 4 * 3 * NARROW + 3 * NARROW
    assert found.bound == pytest.approx(found.predicted, rel=1e-3)
    assert found.predicted < dag.measured


def test_equal_programs_are_solved_once(monkeypatch):
    """Each group of kernels that share nothing is a program; those of repeated layers are equal."""
    build = Builder()
    for _ in range(3):
        x, y = build.value(Kind.SOURCE, NARROW), build.value(Kind.SOURCE, NARROW)
        total = build.value(Kind.POINTWISE, WIDE, x, y)
        build.kernel(total, build.value(Kind.POINTWISE, NARROW, total, required=True))
        build.kernel(build.value(Kind.POINTWISE, NARROW, total, required=True))
    dag, solves = build.dag(), []
    solve = program.milp
    monkeypatch.setattr(program, "milp", lambda *a, **k: solves.append(1) or solve(*a, **k))
    solved: program.Solved = {}
    first = plan(dag, Limits(), solved=solved)
    assert len(solves) == 1
    assert plan(dag, Limits(), solved=solved) == first
    assert len(solves) == 1
    assert plan(dag, Limits()) == first


def test_a_kernel_that_reaches_further_computes_what_a_cut_needs_besides():
    """As a DINOv2's backward: the narrow sum needs a scale and an earlier sum besides."""
    build = Builder()
    x, scale = build.value(Kind.SOURCE, 3 * WIDE), build.value(Kind.SOURCE, 4)
    earlier = build.value(Kind.POINTWISE, NARROW, build.value(Kind.SOURCE, 3 * WIDE))
    build.kernel(earlier, build.value(Kind.POINTWISE, 2, earlier, required=True))
    wide = build.value(Kind.POINTWISE, WIDE, x)
    build.kernel(wide, build.value(Kind.POINTWISE, 2, wide, required=True))
    factor = build.value(Kind.POINTWISE, 4, scale)
    scaled = build.value(Kind.POINTWISE, WIDE, wide, factor)
    narrow = build.value(Kind.POINTWISE, NARROW, scaled, earlier)
    for _ in range(3):
        build.kernel(build.value(Kind.POINTWISE, NARROW, narrow, required=True))
    near, far = (plan(build.dag(), limits) for limits in (Limits(), Limits().widest))
    assert near.homes[narrow] == 2  # by its first reader, which has to read the wide value for it
    assert far.homes[narrow] == 1 and far.predicted < near.predicted


def test_a_needless_materialization_is_undone():
    build = Builder()
    x = build.value(Kind.SOURCE, NARROW)
    channels = [build.value(Kind.SOURCE, 4) for _ in range(4)]
    normed = build.value(Kind.POINTWISE, NARROW, x, *channels)
    out = build.value(Kind.POINTWISE, NARROW, normed, required=True)
    build.kernel(normed)
    build.kernel(out)
    found = plan(build.dag(), Limits())
    assert found.store == frozenset()
    assert found.predicted == 2 * NARROW + 16


def test_what_the_model_misses_is_carried_along():
    dag, *_ = residual_chain(2)
    heavier = Dag(
        dag.values,
        tuple(
            Fused(k.index, k.name, k.position, k.writes, k.numels, k.measured + 1000)
            for k in dag.kernels
        ),
    )
    one, other = plan(dag, Limits()), plan(heavier, Limits())
    assert other.predicted == one.predicted + 2000
    assert other.bound == pytest.approx(one.bound + 2000)


def test_arguments_are_capped():
    build = Builder()
    sources = [build.value(Kind.SOURCE, WIDE) for _ in range(12)]
    sums = [build.value(Kind.POINTWISE, NARROW, *sources[i : i + 2]) for i in range(0, 12, 2)]
    for _ in range(2):
        build.kernel(build.value(Kind.POINTWISE, NARROW, *sums, required=True))
    dag = build.dag()
    # The first kernel reads all twelve; materializing the six sums there saves the second
    # one 12 wide reads for 6 narrow ones.
    assert plan(dag, Limits()).store == frozenset(sums)
    # 12 reads and its own output leave room for one more of 14.
    assert len(plan(dag, Limits(arguments=14)).store) == 1


def test_a_banned_place_is_not_used():
    dag, _, residuals = residual_chain(2)
    banned = {(residuals[0], k.index) for k in dag.kernels}
    assert plan(dag, Limits(), banned).store.isdisjoint({residuals[0]})


@pytest.mark.parametrize("limit", ["solve_entries", "solve_work"])
def test_what_is_beyond_a_count_keeps_the_dry_runs_decision(limit):
    dag, *_ = residual_chain(3)
    found = plan(dag, replace(Limits(), **{limit: 0}))
    assert found.unsolved
    assert found.predicted <= dag.measured
    assert not plan(dag, Limits()).unsolved


def test_the_emergency_ends_a_plan():
    dag, *_ = residual_chain(3)
    with pytest.raises(OutOfTime):
        plan(dag, Limits(), deadline=Deadline(0.0))


def test_a_body_larger_than_allowed_is_kept_where_the_dry_run_has_it():
    build = Builder()
    value = build.value(Kind.SOURCE, NARROW)
    for _ in range(30):
        value = build.value(Kind.POINTWISE, NARROW, value)
    build.kernel(build.value(Kind.POINTWISE, NARROW, value, required=True))
    dag = build.dag()
    found = plan(dag, Limits(body=5))
    assert not found.unsolved
    assert found.bound == pytest.approx(dag.measured, rel=1e-2)


def heavy_chain(work: int, other: int = 8) -> tuple[Dag, int]:
    """Two kernels that need one value, which is dear to compute and cheap to read again.

    Each reads ``other`` bytes beside it.
    """
    build = Builder()
    x = build.value(Kind.SOURCE, NARROW)
    dear = build.value(Kind.POINTWISE, WIDE, x, work=work)
    for _ in range(2):
        beside = build.value(Kind.SOURCE, other)
        build.kernel(build.value(Kind.POINTWISE, NARROW, dear, beside, required=True))
    return build.dag(), dear


def test_what_is_dear_to_compute_is_computed_once():
    cheap, value = heavy_chain(100)
    assert value not in plan(cheap, Limits(balance=0.02)).store
    dear, value = heavy_chain(50_000)
    assert value in plan(dear, Limits(balance=0.02)).store
    # The bound is about bytes alone.
    assert value not in plan(dear, Limits(balance=0.0)).store


def test_measured_rates_hide_no_computing_behind_bytes():
    dag, value = heavy_chain(1500, other=10_000)
    assert value not in plan(dag, Limits(balance=0.5)).store
    one = Load(read=1.0, reread=1.0, write=1.0, operations=0.5)
    rates = Rates(dict.fromkeys(KINDS, one), cache=0)
    assert rates.balance == 0.5
    assert value in plan(dag, Limits(balance=rates.balance, rates=rates)).store


def test_by_time_a_gpu_computes_twice_what_its_bytes_hide():
    """And writes what they do not hide, where operations are measured to be dear."""
    one = Load(read=1.0, reread=1.0, write=1.0, operations=0.02)
    for overlap, stored in ((True, False), (False, True)):
        limits = Limits(
            refusing_rates=Rates(dict.fromkeys(KINDS, one), cache=0, overlap=overlap)
        ).by_time
        dag, value = heavy_chain(50_000, other=10_000)
        assert (value in plan(dag, limits).store) == stored
    dear = replace(one, operations=1.0)
    limits = Limits(refusing_rates=Rates(dict.fromkeys(KINDS, dear), cache=0, overlap=True)).by_time
    dag, value = heavy_chain(50_000, other=10_000)
    assert value in plan(dag, limits).store


def sum_of_two(**summing):
    """Two tensors are added for a pointwise kernel and for a reduction; and the sum."""
    build = Builder()
    sources = [build.value(Kind.SOURCE, NARROW) for _ in range(2)]
    total = build.value(Kind.POINTWISE, WIDE - 50, *sources)
    build.kernel(build.value(Kind.POINTWISE, NARROW, total, required=True))
    build.kernel(build.value(Kind.PINNED, 1, total, required=True))
    dag = build.dag()
    pointwise, reduction = dag.kernels
    return Dag(dag.values, (pointwise, replace(reduction, reduced=100, **summing))), total


def test_a_kernel_that_reads_twice_is_left_less_to_read():
    """A pointwise kernel could write the sum that a reduction needs of two of its tensors."""
    dag, total = sum_of_two()
    assert total not in plan(dag, Limits()).store
    twice = Load(read=2.0, reread=2.0, write=1.0)
    once = Load(read=1.0, reread=1.0, write=1.0)
    rates = Rates({"pointwise": once, "persistent": twice, "looped": twice}, cache=0)
    found = plan(dag, Limits(rates=rates, balance=rates.balance))
    assert total not in found.store, "350 written and twice 350 read are more than twice 400"
    thrice = replace(twice, read=8.0, reread=8.0)
    rates = Rates({"pointwise": once, "persistent": thrice, "looped": thrice}, cache=0)
    found = plan(dag, Limits(rates=rates, balance=rates.balance))
    assert total in found.store
    # Stock: 3 * 200 and 8 * 400 and a byte; then 3 * 200 + 350 and 8 * 350.
    assert found.saves == pytest.approx(3200 - (350 + 2800))


def test_a_kernel_of_several_loops_is_left_less_to_read():
    """A layer norm in C++ reads its input in three loops, and an inlined sum is two inputs."""
    one = Load(read=1.0, reread=1.0, write=1.0, again=1.0)
    limits = Limits(rates=Rates(dict.fromkeys(KINDS, one), cache=0))
    for passes, stored in ((1, False), (3, False), (9, True)):
        dag, total = sum_of_two(passes=passes)
        assert (total in plan(dag, limits).store) == stored, passes


def test_a_kernel_costs_what_it_moves_or_computes_whichever_is_longer():
    kernel = Fused(0, "k", 0, (), frozenset({1}), measured=100, work=1000)
    dag = Dag((), (kernel, kernel))
    assert dag.cost(0.01) == 200
    assert dag.cost(1.0) == 2000


def test_views_of_one_buffer_cost_at_most_the_buffer():
    build = Builder()
    x = build.value(Kind.SOURCE, NARROW)
    parts = []
    for _ in range(3):
        part = build.value(Kind.VIEW, NARROW // 2, x)
        build.values[part] = replace(build.values[part], base=x)
        parts.append(part)
    build.kernel(build.value(Kind.POINTWISE, NARROW, *parts, required=True))
    dag = build.dag()
    assert dag.measured == 2 * NARROW
    assert plan(dag, Limits()).bound == pytest.approx(2 * NARROW, rel=1e-3)


def test_stocks_decisions_stay_where_they_are_to_stay():
    dag, _, residuals = residual_chain(4)
    nodes = dag.nodes(residuals[:2])
    left = dag.with_stocks(nodes, frozenset())
    assert plan(left, Limits()).store.isdisjoint(residuals[:2])


def test_misplaced_names_what_did_not_fuse():
    dag, _, residuals = residual_chain(2)
    homes = plan(dag, Limits()).homes
    assert misplaced(dag, homes, lambda a, b: True) == set()
    assert misplaced(dag, homes, lambda a, b: False) == {(residuals[0], 0)}
    assert misplaced(dag, homes, lambda a, b: None) == set()
