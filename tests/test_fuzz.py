"""A fixed share of the fuzz: every policy on random programs, the planner on random graphs.

Long runs: ``python benchmarks/run.py fuzz compiled`` and ``... fuzz planner``.
"""

from __future__ import annotations

import pytest
import torch

from fuzzing.bounds import bounded, unit_roundoff
from fuzzing.compiled import _outside, program_fails
from fuzzing.graphs import problem_fails, problems
from fuzzing.hunt import Tally, hunt
from fuzzing.programs import Input, Program, programs

pytestmark = pytest.mark.long


def test_any_graph_is_planned_within_its_limits():
    tally = hunt(problem_fails, problems(), examples=120, seed=1)
    assert not tally.failures, tally.failures[0]
    assert tally.seen["of them compared with every choice, one by one"] > 25


@pytest.mark.e2e
@pytest.mark.usefixtures("dynamo")
@pytest.mark.full
def test_any_program_keeps_every_promise():
    tally = hunt(program_fails, programs(), examples=4, seed=300)
    assert not tally.failures, tally.failures[0]
    assert tally.seen["compiled"] > 1


def exact(function, *arguments):
    return bounded(function, arguments)


def test_the_bound_is_one_rounding_for_each_operator():
    x = torch.rand(1000).bfloat16() + 1

    def thrice(x):
        return (x * 1.7 + 1) * x

    (limit,) = exact(thrice, x)
    assert not _outside([thrice(x)], [limit])
    # The same in fp32 and rounded once is nearer, and within the bound, too.
    assert not _outside([thrice(x.float()).bfloat16()], [limit])
    # Three roundings of at most 2 ** -8 each, those of the factors carried along.
    assert (limit.error / limit.value).max() < 3.1 * unit_roundoff(torch.bfloat16)
    # One unit in the last place more is found.
    assert _outside([thrice(x) * (1 + 4 * unit_roundoff(torch.bfloat16))], [limit])


def test_what_depends_on_a_rounding_is_not_promised():
    x = torch.rand(100).bfloat16()
    mask, whole = exact(lambda x: (x * 3 > 1.5, (x * 64 + x).to(torch.int64)), x)
    assert (mask.error == (x.double() * 3 - 1.5).abs().le(mask.error)).sum() > 0
    assert set(mask.error.unique().tolist()) <= {0.0, 1.0}
    assert whole.error.max() <= 1


def test_a_wrong_result_is_found():
    program = Program((Input((8, 64), "float32"),), ("v0 = a0.sin() + 1",), ("v0",))
    (limit,) = exact(program.function(), *program.arguments())[:1]
    (right,) = program.function()(*program.arguments())
    assert not _outside([right], [limit])
    assert _outside([right + 1e-5], [limit])
    assert _outside([right[1:]], [limit])
    assert _outside([torch.where(right > 1.5, torch.nan, right)], [limit])


def test_programs_are_the_same_for_the_same_seed():
    def drawn(seed):
        seen = []
        hunt(lambda p, _: seen.append(str(p)), programs(), examples=20, seed=seed)
        return seen

    assert drawn(3) == drawn(3) != drawn(4)


def test_a_program_that_cannot_be_bounded_is_skipped_and_counted():
    """One operator without a rule ended the whole hunt."""
    program = Program((Input((8, 64), "float32"),), ("v0 = torch.erfinv(a0)",), ("v0",))
    tally = Tally()
    program_fails(program, tally)
    assert not tally.failures
    assert tally.seen == {"skipped: no bound for aten.erfinv.default": 1}


def test_a_masked_scatter_is_bounded():
    """The backward of a gather, in the decompositions of Inductor."""
    masked = torch.ops.aten._unsafe_masked_index_put_accumulate

    def scattered(x, ids, values):
        return masked(x, ids > 0, [ids], values)

    x, ids, values = torch.zeros(4, 3), torch.tensor([0, 1, 1]), torch.rand(3, 3)
    (limit,) = exact(scattered, x, ids, values)
    assert not _outside([scattered(x, ids, values)], [limit])
    assert _outside([scattered(x, ids, values) + 0.1], [limit])


def test_any_is_unknown_where_one_element_is():
    x = torch.tensor([[0.1, 0.1], [1.0, -1.0]]).bfloat16()
    (limit,) = exact(lambda x: (x * 3 > 0.3).any(-1), x)
    assert limit.value.tolist() == [bool(x[0, 0].double() * 3 > 0.3), True]
    assert limit.error.tolist() == [1.0, 0.0]
