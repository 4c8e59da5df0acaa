"""What interleaved timings say, without timing anything."""

from __future__ import annotations

import random
from itertools import pairwise, permutations

import pytest

from torch_materialize.core.paired import faster, interleaved, median_interval, noise


def test_interval_of_few_samples_is_their_range():
    found = median_interval([3.0, 1.0, 2.0])
    assert (found.low, found.median, found.high) == (1.0, 2.0, 3.0)


def test_interval_leaves_out_what_a_fair_coin_would():
    # Ranks from a table of the sign test at 95%: 2 of 9, 6 of 20, 10 of 30 (from 1).
    for count, rank in ((9, 2), (20, 6), (30, 10)):
        found = median_interval(list(range(1, count + 1)))
        assert (found.low, found.high) == (rank, count + 1 - rank)


def test_interval_holds_the_median_as_often_as_it_says():
    draw = random.Random(0)
    inside = 0
    for _ in range(1000):
        found = median_interval([draw.lognormvariate(0, 1) for _ in range(15)])
        inside += found.low <= 1.0 <= found.high
    assert inside >= 940


def times(seed: int, spread: float, **medians: float) -> dict[str, list[float]]:
    draw = random.Random(seed)
    rounds: dict[str, list[float]] = {name: [] for name in medians}
    for _ in range(15):
        drift = draw.uniform(1, 3)
        for name, median in medians.items():
            rounds[name].append(median * drift * draw.uniform(1, 1 + spread))
    return rounds


def test_drift_of_the_machine_decides_nothing():
    found = times(1, 0.01, base=1.0, again=1.0, plan=0.9)
    assert faster(found, "base", "again") == "plan"
    assert noise(found["base"], found["again"]) < 0.02


def test_nothing_slower_or_equal_is_ever_chosen():
    for seed in range(200):
        assert faster(times(seed, 0.2, base=1.0, again=1.0, plan=1.0), "base", "again") == "base"
        slow = times(seed, 0.2, base=1.0, again=1.0, plan=1.05, other=1.2)
        assert faster(slow, "base", "again") == "base"


def test_what_is_not_told_apart_goes_to_the_first():
    found = times(2, 0.05, base=1.0, again=1.0, plan=0.5, same=0.5, best=0.3)
    assert faster(found, "base", "again") == "best"
    del found["best"]
    assert faster(found, "base", "again") == "plan"


def test_rounds_have_an_order_of_their_own_and_stop():
    seen = []
    runs = {name: lambda name=name: seen.append(name) or 1.0 for name in "abc"}
    rounds = list(interleaved(runs, 10, lambda done: done == 3))
    assert len(rounds) == 3
    assert all(list(r) == ["a", "b", "c"] for r in rounds)
    assert all(sorted(seen[i : i + 3]) == ["a", "b", "c"] for i in (0, 3, 6))


@pytest.mark.parametrize("count", range(2, 8))
def test_everything_stands_in_each_place_and_behind_each_other_equally_often(count):
    """Drawn by chance, one of five runs followed the copy that empties the caches twice as often
    as another, in every case of a benchmark.
    """
    names, seen = "abcdefg"[:count], []
    runs = {name: lambda name=name: seen.append(name) or 1.0 for name in names}
    repeated = 2 if count % 2 else 1
    for _ in interleaved(runs, repeated * count, lambda _: False):
        pass
    rounds = ["".join(seen[i : i + count]) for i in range(0, len(seen), count)]
    pairs = [first + second for order in rounds for first, second in pairwise(order)]
    assert {pairs.count(a + b) for a, b in permutations(names, 2)} == {repeated}
    for place in range(count):
        assert sorted(order[place] for order in rounds) == sorted(names * repeated)


def test_no_samples_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        median_interval([])
