"""Which of the plans that were tried is taken; no torch, times and bytes are made up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from torch_materialize.core.candidates import Candidates, State
from torch_materialize.core.cost import KINDS, Load, Rates
from torch_materialize.core.dag import Dag, Fused, Kind, Value
from torch_materialize.core.graph import Graph, Kernel
from torch_materialize.core.limits import Limits
from torch_materialize.core.story import Refusal, gap_parts, gap_text

# A byte takes no time here, so that operations are seconds.
RATES = Rates(dict.fromkeys(KINDS, Load(operations=1.0)), cache=0, error=0.06)
LIMITS = Limits(launch_bytes=0, balance=0.0, refusing_rates=RATES)


def tried(name: str, moves: int, seconds: int, *, kernels: int = 1, arguments: int = 1) -> State:
    """A dry run that moves some bytes in some kernels, and should take some seconds."""
    value = Value(0, "x", Kind.PINNED, 1, 1, base=0, required=True)
    fused = Fused(0, "k", 0, (0,), frozenset({1}), measured=moves, work=seconds)
    reads = {f"a{i}": 0 for i in range(arguments - 1)}
    first = Kernel("k", "pointwise", {**reads, "x": moves}, {})
    more = (Kernel(f"k{i}", "pointwise", {}, {}) for i in range(1, kernels))
    return State(frozenset([name]), Graph((first, *more)), Dag((value,), (fused,)))


def taken(*states: State, limits: Limits = LIMITS) -> Candidates:
    stock = tried("stock", 1000, 100)
    candidates = Candidates(stock, stock, limits, bitwise=False)
    for state in states:
        candidates.offer(state)
    return candidates


def slow(candidates: Candidates) -> bool:
    """Whether a plan of fewer bytes was refused for its time."""
    return "time" in {refusal.rule for refusal in candidates.refused}


def test_of_plans_that_should_take_as_long_the_one_of_fewest_bytes_is_taken():
    plans = [tried("a", 900, 99), tried("b", 800, 103), tried("c", 850, 98)]
    found = taken(*plans)
    assert found.best.store == {"b"}  # 103 is within 6% of 98
    assert not slow(found)
    assert found.slow is None and found.too_long(found.best) == 0


def test_what_should_take_longer_than_stock_is_refused_however_few_its_bytes():
    found = taken(tried("a", 500, 107))
    assert found.best.store == {"stock"}
    assert slow(found)
    assert found.slow is not None and found.slow.store == {"a"}
    assert found.too_long(found.slow) == pytest.approx(1)  # 107 of at most 106


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_in_whatever_order_they_are_tried(order):
    """The fastest leaves behind what is slower beyond doubt; then bytes decide."""
    plans = tried("fewest", 700, 95), tried("fastest", 900, 80), tried("both", 800, 84)
    found = taken(*(plans[i] for i in order))
    assert found.best.store == {"both"}
    assert slow(found)
    assert found.slow is not None and found.slow.store == {"fewest"}


def test_without_rates_bytes_decide():
    plans = tried("fewest", 700, 900), tried("fastest", 900, 8)
    assert taken(*plans, limits=replace(LIMITS, refusing_rates=None)).best.store == {"fewest"}


def test_by_rates_that_are_gone_by_the_least_time_decides():
    plans = tried("fewest", 700, 95), tried("fastest", 900, 94)
    by_rates = replace(LIMITS, refusing_rates=None, rates=RATES)
    assert taken(*plans, limits=by_rates).best.store == {"fastest"}


def test_no_plan_is_taken_that_moves_more_than_what_a_search_begins_with():
    """A Gemma's plan should have been faster than its pieces, and moved 2.6% more bytes."""
    stock = tried("stock", 1000, 100)
    by_rates = replace(LIMITS, refusing_rates=None, rates=RATES)
    candidates = Candidates(stock, stock, by_rates, bitwise=False)
    candidates.begin_with(tried("pieces", 880, 110))
    assert candidates.best.store == {"pieces"}  # though stock should be faster
    candidates.offer(tried("fast", 900, 1))
    assert candidates.best.store == {"pieces"}
    candidates.offer(tried("fewer", 870, 109))
    assert candidates.best.store == {"fewer"}


def test_where_stock_takes_too_much_memory_what_a_search_begins_with_is_one_plan_of_many():
    stock = heavy("stock", 1000, 100)
    candidates = Candidates(stock, stock, replace(LIMITS, peak=90), bitwise=False)
    candidates.begin_with(heavy("pieces", 880, 95))
    assert not candidates.fits
    candidates.offer(heavy("light", 1100, 80))
    assert candidates.fits and candidates.best.store == {"light"}


def test_of_equals_the_first_is_taken():
    assert taken(tried("a", 900, 9), tried("b", 900, 9)).best.store == {"a"}


def test_where_all_are_slower_than_stock_what_would_be_lowered_stays():
    """Casts that are to be written may make it other kernels than stock's, and slower ones."""
    candidates = Candidates(tried("stock", 1000, 100), tried("as stock", 950, 120), LIMITS, False)
    candidates.offer(tried("a", 900, 110))
    assert candidates.best.store == {"as stock"}
    assert slow(candidates)


@pytest.mark.parametrize(
    "refused",
    [
        tried("as many bytes as stock", 1000, 1),
        tried("a launch that does not pay", 950, 1, kernels=2),
        tried("too many arguments", 500, 1, arguments=200),
    ],
    ids=lambda state: next(iter(state.store)),
)
def test_no_time_makes_up_for(refused):
    found = taken(refused, limits=replace(LIMITS, launch_bytes=60))
    assert found.best.store == {"stock"}
    assert not slow(found)


def heavy(name: str, moves: int, size: int) -> State:
    """A dry run whose one value takes ``size`` bytes of memory."""
    state = tried(name, moves, 1)
    value = replace(state.dag.values[0], nbytes=size)
    return replace(state, dag=replace(state.dag, values=(value,)))


def refused(*states: State, **limits: object):
    return taken(*states, limits=replace(LIMITS, **limits)).refused


def test_a_better_plan_that_was_refused_says_by_which_rule_and_by_how_much():
    stock = heavy("stock", 1000, 100)
    found = Candidates(stock, stock, LIMITS, bitwise=False)
    found.offer(heavy("a", 799, 107))
    (one,) = found.refused
    assert (one.rule, one.bytes, one.stock_bytes) == ("peak", 799, 1000)
    assert (one.found, one.limit, one.stock) == (107, 105, 100)
    assert one.sentence() == (
        "A plan that moves 20.1% fewer bytes than stock was refused: its estimated peak memory is "
        "7.0% above stock's (limit 5%)."
    )


@pytest.mark.parametrize(
    ("state", "limits", "rule", "reason"),
    [
        (tried("a", 500, 107), {}, "time", "its predicted time is 7.0% above stock's (limit 6%)"),
        (
            tried("a", 900_000, 1, kernels=3),
            {"launch_bytes": 10**6},
            "launches",
            "it launches 2 more kernels and saves 1.1 MB (worth it from 2 MB)",
        ),
        (
            tried("a", 500, 1, arguments=200),
            {},
            "arguments",
            "one of its kernels takes 200 buffers (limit 128)",
        ),
    ],
    ids=["time", "launches", "arguments"],
)
def test_every_rule_has_its_sentence(state, limits, rule, reason):
    stock = tried("stock", 2_000_000 if rule == "launches" else 1000, 100)
    found = Candidates(stock, stock, replace(LIMITS, **limits), bitwise=False)
    found.offer(state)
    (one,) = found.refused
    assert one.rule == rule
    assert one.sentence().endswith(f"was refused: {reason}.")


def test_what_computes_too_much_for_what_it_saves_is_said_so():
    limits = replace(LIMITS, balance=1.0, refusing_rates=None)
    (one,) = taken(tried("worked", 900, 2000), limits=limits).refused
    assert (one.rule, one.bytes, one.instead) == ("operations", 900, 1000)
    assert (one.found, one.limit) == (1100, 100)
    assert "what it computes more takes as long as moving 0.0011 MB" in one.sentence()
    # Next to nothing is not said.
    assert taken(tried("worked", 999, 2000), limits=limits).refused == ()


def test_a_gap_is_divided_by_what_refused_the_plan_of_the_fewest_bytes():
    found = [Refusal("time", 800, 1000, instead=1000), Refusal("peak", 900, 1000, instead=1000)]
    assert gap_parts(1000, 700.0, found) == {"time": 200, "open": 100}
    assert gap_parts(1000, 850.0, found) == {"time": 150}
    # Of a graph with three times as many layers; and of a record that does not know.
    assert gap_parts(3000, 2100.0, found) == {"time": 600, "open": 300}
    assert gap_parts(1000, 700.0, [Refusal("time", 800, 1000)]) == {"open": 300}
    assert gap_parts(1000, 1000.4, found) == {}
    # What the plan behind the bound did not fuse explains no more than what is left.
    assert gap_parts(1000, 700.0, found, 60) == {"time": 200, "fusion": 60, "open": 40}
    assert gap_parts(1000, 700.0, found, 600) == {"time": 200, "fusion": 100}
    text = gap_text({"time": 200, "open": 100}, 700.0)
    assert text == "42.86%: 28.57% to a plan refused for its predicted time, 14.29% open"
    text = gap_text({"fusion": 7}, 700.0)
    assert text == "1.00%: 1.00% to fusions that Inductor does not make"
    assert gap_text({}, 700.0) == "0.00%"


def test_slower_than_another_plan_is_said_so():
    (one,) = refused(tried("fewest", 700, 95), tried("fastest", 900, 80))
    assert one.rule == "time"
    assert "12.0% above the most that is allowed beside a faster plan" in one.sentence()


def test_what_is_no_better_than_what_was_taken_is_not_told():
    plans = tried("taken", 500, 90), tried("wide", 600, 1, arguments=200), tried("slow", 550, 300)
    assert refused(*plans) == ()
    assert refused(tried("more than stock", 1100, 1, arguments=200)) == ()


def test_of_each_rule_the_best_is_told():
    plans = [tried(str(n), n, 1, arguments=200) for n in (700, 500, 600)] + [tried("s", 400, 300)]
    assert [(one.rule, one.bytes) for one in refused(*plans)] == [("time", 400), ("arguments", 500)]
