"""What a kernel reads through indices: each element once that it can touch, and no more."""

from __future__ import annotations

import pytest
import torch

import torch_materialize as tm
from torch_materialize.core.devices import DEVICES
from torch_materialize.core.limits import limits_for
from torch_materialize.core.planner import plan
from torch_materialize.core.policy import STOCK
from torch_materialize.core.traffic import traffic
from torch_materialize.inductor.offline import capture as capturing
from torch_materialize.inductor.offline.dry_run import dry_run

pytestmark = pytest.mark.e2e

TABLE = 10_000, 64
ROWS = 128
TOUCHED = ROWS * 64 * 4  # all columns of as many rows as there are indices


def indices(*shape):
    return lambda: torch.zeros(*shape, dtype=torch.long)


def captured(function, *made, device="h200"):
    mode = capturing.fake_mode()
    with mode:
        inputs = [torch.empty(one) if isinstance(one, tuple) else one() for one in made]
    (graph,) = capturing.capture(function, inputs, {}, DEVICES[device], mode)
    return graph


def read(function, *made) -> int:
    """Bytes that the only kernel reads of its first input."""
    graph = captured(function, *made)
    (kernel,) = dry_run(graph, STOCK, DEVICES["h200"]).graph.fused()
    return kernel.reads["arg0_1"]


def rotate(table, ids, x):
    """The halves of a head, rotated by angles that a table holds side by side."""
    cos, sin = table[ids][:, None, :].chunk(2, -1)
    one, other = x.chunk(2, -1)
    return torch.cat((one * cos - other * sin, other * cos + one * sin), -1)


def test_the_halves_of_a_rotation_share_the_rows_of_angles():
    assert read(rotate, TABLE, indices(ROWS), (ROWS, 32, 64)) == TOUCHED


def test_columns_of_the_same_rows_count_once():
    def sides(table, ids):
        return table[ids][:, :48] * table[ids][:, 16:]

    assert read(sides, TABLE, indices(ROWS)) == TOUCHED


def test_a_mask_leaves_only_what_it_lets_through():
    def padded(table, ids):
        return torch.cat((table[ids][:, :16], table[ids][:, :16].exp()), -1)

    assert read(padded, TABLE, indices(ROWS)) == TOUCHED // 4


@pytest.mark.parametrize("other", [lambda a, b: b, lambda a, b: a + 1, lambda a, b: a.flip(0) + b])
def test_other_rows_add_up(other):
    def two(table, a, b):
        return table[a] * table[other(a, b)]

    assert read(two, TABLE, indices(ROWS), indices(ROWS)) == 2 * TOUCHED


def test_other_rows_add_up_where_two_loops_are_fused():
    def two(table, a, b):
        return table[a].exp(), table[b].sin()

    graph = captured(two, TABLE, indices(ROWS), indices(ROWS))
    kernels = list(dry_run(graph, STOCK, DEVICES["h200"]).graph.fused())
    assert sum(kernel.reads["arg0_1"] for kernel in kernels) == 2 * TOUCHED


def test_equal_rows_count_once_where_two_loops_are_fused():
    def two(table, ids):
        rows = table[ids]
        return rows.sum(-1), rows.exp()

    assert read(two, TABLE, indices(ROWS)) == TOUCHED


def test_an_index_for_each_element_touches_as_many_elements():
    def each(x, ids):
        return x.gather(1, ids)

    assert read(each, (512, 4096), indices(512, 8)) == 512 * 8 * 4

    def beside(x, ids):
        return x.gather(1, ids) * x.gather(1, ids + 1)

    assert read(beside, (512, 4096), indices(512, 8)) == 2 * 512 * 8 * 4


def test_no_more_rows_than_there_are():
    def kinds(table, ids, x):
        return x * table[1][ids]

    assert read(kinds, (3, 2, 64), indices(ROWS), (ROWS, 64)) == 2 * 64 * 4


def test_an_image_that_is_enlarged_is_read_once():
    def enlarge(x):
        return torch.nn.functional.interpolate(x, scale_factor=2)

    assert read(enlarge, (2, 3, 16, 16)) == 2 * 3 * 16 * 16 * 4


def test_an_index_that_is_divided():
    """Torch 2.11 refuses to guess the size of what holds an index (found by a Qwen3-Next)."""

    def transposed(table, ids):
        return table.t().reshape(-1)[ids] + 1

    assert read(transposed, TABLE, indices(ROWS)) == ROWS * 4


def test_two_indices_of_one_access():
    def picked(x, a, b):
        return x[a, b]

    assert read(picked, (64, 64, 32), indices(8), indices(8)) == 8 * 32 * 4


def test_plan_bound_and_stock_keep_their_order():
    """Angles that two kernels gather: writing them once would move more, and none does."""

    def two(table, ids, x, y, weight):
        angles = table[ids][:, None, :]
        cos, sin = angles.chunk(2, -1)
        done = []
        for one in (x, y):
            normed = torch.nn.functional.rms_norm(one, one.shape[-1:], weight)
            a, b = normed.chunk(2, -1)
            done.append(torch.cat((a * cos - b * sin, b * cos + a * sin), -1))
        return done

    graph = captured(two, TABLE, indices(4096), (4096, 32, 64), (4096, 4, 64), (64,))
    stock, local, plan = (
        dry_run(graph, policy, DEVICES["h200"])
        for policy in (STOCK, tm.Policy("traffic"), tm.Policy("plan"))
    )
    ours, theirs, least = (traffic(run.graph).bytes for run in (plan, stock, local))
    assert plan.bound <= ours <= min(theirs, least)
    assert plan.bound == pytest.approx(ours, rel=1e-3)


def test_a_plan_does_not_seem_to_save_what_is_not_read():
    """A Llama's loss reads one logit of each row through a cast: its bound was 17% too low."""

    def loss(x, labels):
        wide = x.float()
        chosen = wide.gather(1, labels)
        return -(chosen - wide.logsumexp(1, keepdim=True)).mean()

    def logits():
        return torch.empty(512, 32000, dtype=torch.bfloat16)

    run = dry_run(captured(loss, logits, indices(512, 1)), STOCK, DEVICES["h200"])
    assert any(kernel.narrow for kernel in run.dag.kernels)
    usual = limits_for(DEVICES["h200"])
    for limits in (usual, usual.widest):
        found = plan(run.dag, limits)
        assert found.predicted == pytest.approx(run.dag.measured, rel=1e-3)
        assert found.bound == pytest.approx(run.dag.measured, rel=1e-3)
