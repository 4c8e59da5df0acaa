"""Prices, explanations and their record: all that needs no torch."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from fuzzing.graphs import problems
from test_planner import residual_chain
from torch_materialize.core.dag import Kind, moved
from torch_materialize.core.memory import peak_bytes
from torch_materialize.core.prices import Prices, flipped


def check_prices(dag):
    prices = Prices(dag)
    assert prices.total == sum(one.total(dag) for one in moved(dag, dag.homes()))
    assert prices.peak == peak_bytes(dag, dag.homes())
    for value in dag.values:
        price = prices.price(value.index)
        if price is None:
            continue
        other = flipped(dag, value.index, price.home)
        recounted = sum(one.total(dag) for one in moved(dag, other))
        rise = peak_bytes(dag, other) - prices.peak
        if value.index in dag.homes():
            assert (price.stored, price.inlined) == (prices.total, recounted)
            assert price.peak_change == -rise
        else:
            assert (price.stored, price.inlined) == (recounted, prices.total)
            assert price.peak_change == rise


@settings(max_examples=400, deadline=None)
@given(problems().map(lambda problem: problem.dag))
@pytest.mark.full
def test_a_price_is_what_a_recount_of_everything_says(dag):
    check_prices(dag)
    # Without extern kernels between them, what one kernel leaves meets what the next makes.
    close = tuple(replace(kernel, position=kernel.index) for kernel in dag.kernels)
    inputs = tuple(replace(value, ready=-1) for value in dag.values)
    check_prices(replace(dag, values=inputs, kernels=close))


def test_the_narrow_residual_is_priced_where_the_wide_sum_is_computed():
    dag, sums, residuals = residual_chain(4)
    prices = Prices(dag)
    assert prices.price(residuals[0]).home == 0
    assert prices.price(residuals[0]).stored < prices.price(sums[0]).stored
    check_prices(dag)


def test_what_is_fixed_has_no_price():
    dag, sums, _ = residual_chain(2)
    source = next(v.index for v in dag.values if v.kind is Kind.SOURCE)
    assert Prices(dag).price(source) is None
    kept = replace(dag, forced=frozenset(sums))
    assert Prices(kept).price(sums[0]) is None


@settings(max_examples=200, deadline=None)
@given(problems().map(lambda problem: problem.dag))
@pytest.mark.full
def test_several_are_priced_at_once(dag):
    prices = Prices(dag)
    open_ = {v.index: p.home for v in dag.values if (p := prices.price(v.index)) is not None}
    stored = {i: k for i, k in open_.items() if i in dag.homes()}
    inlined = {i: k for i, k in open_.items() if i not in dag.homes()}
    for homes in (stored, inlined):
        if homes:
            price = prices.together(homes)
            other = dag.homes()
            for i, k in homes.items():
                other = (
                    {j: h for j, h in other.items() if j != i}
                    if homes is stored
                    else {**other, i: k}
                )
            recounted = sum(one.total(dag) for one in moved(dag, other))
            assert {price.stored, price.inlined} == {prices.total, recounted}
            if len(homes) == 1:
                (only,) = homes
                assert price == prices.price(only)
