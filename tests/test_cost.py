"""The cost model on graphs that fit on a page."""

from __future__ import annotations

from dataclasses import replace

import pytest

from torch_materialize.core.cost import KINDS, Load, Rates, computing, each_load, kind, seconds
from torch_materialize.core.dag import Dag, Fused, Kind, Value
from torch_materialize.core.devices import DEVICES
from torch_materialize.core.fits import FITS
from torch_materialize.core.limits import Limits


def chain(size: int) -> Dag:
    """x -> a (kernel 0) -> b, a sum (kernel 1), which reads x again."""
    values = (
        Value(0, "x", Kind.SOURCE, size, size, base=0),
        Value(1, "a", Kind.POINTWISE, size, size, (0,), base=1),
        Value(2, "b", Kind.PINNED, 4, 1, (0, 1), base=2, required=True),
    )
    kernels = (
        Fused(0, "k0", 0, (1,), frozenset({size}), measured=2 * size, work=size),
        Fused(1, "k1", 1, (2,), frozenset({size}), measured=2 * size + 4, work=size, reduced=size),
    )
    return Dag(values, kernels)


def test_kinds():
    kernel = Fused(0, "k", 0, (), frozenset())
    assert kind(kernel) == "pointwise"
    assert [kind(Fused(0, "k", 0, (), frozenset(), reduced=n)) for n in (1024, 1025)] == [
        "persistent",
        "looped",
    ]


def loads(dag, cache):
    """Kind -> load of a graph that has one kernel of each."""
    return dict(each_load(dag, cache))


def test_what_a_cache_holds_is_read_again():
    assert loads(chain(100), cache=1000) == {
        "pointwise": Load(1, 100, 0, 100, 100),
        "persistent": Load(1, 0, 200, 4, 100),
    }


def test_each_loop_but_the_first_reads_again():
    dag = chain(100)
    dag = Dag(dag.values, (dag.kernels[0], replace(dag.kernels[1], passes=3)))
    assert loads(dag, cache=0)["persistent"] == Load(1, 200, 0, 4, 100, again=400)
    rates = Rates({name: Load(read=1.0, reread=1.0, write=1.0, again=0.5) for name in KINDS}, 0)
    weights = [Limits(rates=rates).weights(kernel).read for kernel in dag.kernels]
    assert weights == [1.0, 2.0]


def test_what_a_cache_has_dropped_is_read_from_memory():
    found = loads(chain(100), cache=150)  # room for one of the two, and that is `a`
    assert found["persistent"] == Load(1, 100, 100, 4, 100)
    assert loads(chain(100), cache=0)["persistent"] == Load(1, 200, 0, 4, 100)


def test_what_the_model_of_a_kernel_misses_is_read():
    dag = chain(100)
    more = Fused(0, "k0", 0, (1,), frozenset({100}), measured=250, work=100)
    dag = Dag(dag.values, (more, dag.kernels[1]))
    assert loads(dag, 0)["pointwise"].read == 150


def test_seconds_are_linear():
    rates = Rates({name: Load(1e-6, 1e-9, 5e-10, 2e-9, 1e-10) for name in KINDS}, cache=0)
    work = Load(2, 1000, 2000, 500, 100)
    once = seconds([("looped", work)], rates)
    assert once == pytest.approx(2e-6 + 1e-6 + 1e-6 + 1e-6 + 1e-8)
    assert seconds([("looped", work + work)], rates) == pytest.approx(2 * once)


def test_the_longer_of_moving_and_computing_hides_the_other():
    """Where they overlap, kernel by kernel; launches do not."""
    each = Load(launches=1e-6, read=1e-9, operations=1e-9)
    rates = Rates(dict.fromkeys(KINDS, each), cache=0, call=1e-5, overlap=True)
    moves, computes = Load(1, read=9000, operations=1000), Load(1, read=1000, operations=9000)
    for one in (moves, computes):
        assert seconds([("looped", one)], rates) == pytest.approx(1e-5 + 1e-6 + 9e-6)
    both = [("looped", moves), ("pointwise", computes)]
    assert seconds(both, rates) == pytest.approx(1e-5 + 2e-6 + 18e-6)
    even = Load(1, read=9000, operations=9000)
    assert 9e-6 < seconds([("looped", even)], rates) - 1.1e-5 < 10e-6


@pytest.mark.parametrize("overlap", [False, True])
def test_kernels_that_compute_for_longer_than_they_do_anything_else(overlap):
    dag = chain(100)
    each = Load(launches=1e-6, read=1e-9, reread=1e-9, write=1e-9, operations=1e-8)
    rates = Rates(dict.fromkeys(KINDS, each), cache=0, overlap=overlap)
    assert computing(dag, rates) == []  # a launch takes as long
    busy, busier = (replace(dag.kernels[k], work=200 * (k + 1)) for k in (0, 1))
    (first, one), (second, other) = computing(Dag(dag.values, (busy, busier)), rates)
    assert first > second > 0
    assert (dag.nodes(one.writes), dag.nodes(other.writes)) == ({"b"}, {"a"})


def test_limits_go_by_time_where_there_are_rates_and_by_bytes_elsewhere():
    dag = chain(100)
    assert Limits(balance=0.0).cost(dag) == dag.measured
    rates = Rates({name: Load(launches=1e-6) for name in KINDS}, cache=0)
    assert Limits(rates=rates).cost(dag) == pytest.approx(2e-6)


def test_limits_by_the_rates_that_only_doubt():
    rates = Rates({name: Load(launches=1e-6) for name in KINDS}, cache=0)
    assert Limits().by_time is None
    assert Limits(rates=rates).by_time is None  # that is what they go by
    by_time = Limits(refusing_rates=rates).by_time
    assert by_time is not None and by_time.refusing_rates is None
    assert by_time.cost(chain(100)) == pytest.approx(2e-6)


def test_no_rate_without_a_source():
    for device, rates in FITS.items():
        assert device in DEVICES
        assert rates.source, f"the rates of {device} must come from results"
        assert set(rates.by_kind) == set(KINDS)
        assert all(getattr(load, f) >= 0 for load in rates.by_kind.values() for f in vars(load))
