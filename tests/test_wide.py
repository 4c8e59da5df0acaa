"""Graphs that are very wide or very deep: they compile, run, and keep to the argument cap."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest
import torch
from torch._inductor.utils import run_and_get_code

import torch_materialize as tm
from tiers import but
from torch_materialize.core.limits import Limits
from torch_materialize.core.traffic import most_arguments
from torch_materialize.inductor.hooks import graph_lowering

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.usefixtures("dynamo")]
_KERNEL = re.compile(r'extern "C"\s+void\s+kernel\(([^)]*)\)|void\s+kernel\(([^)]*)\)')


def compiled(function, policy, *inputs):
    torch._dynamo.reset()
    with torch.no_grad():
        return run_and_get_code(torch.compile(function, options=tm.options(policy)), *inputs)


def arguments(codes: list[str]) -> list[int]:
    """How many pointers each generated C++ kernel takes."""
    found = [a or b for text in codes for a, b in _KERNEL.findall(text)]
    return [parameters.count("*") for parameters in found]


def foreach(*tensors):
    half = len(tensors) // 2
    moments = torch._foreach_mul(tensors[:half], 0.9)
    moments = torch._foreach_add(moments, tensors[half:])
    steps = torch._foreach_mul(moments, 0.1)
    return torch._foreach_sub(tensors[:half], steps), moments


def one_sum(*tensors):
    """Three kernels that could each read all of the inputs."""
    total = tensors[0] * 2
    for tensor in tensors[1:]:
        total = total + tensor
    return total.sin(), total.sum(-1), (total * total).mean(0)


def pairs(*tensors):
    """What two kernels share is the sums of pairs: inlined, both read all of the inputs."""
    half = len(tensors) // 2
    sums = [a + b for a, b in zip(tensors[:half], tensors[half:], strict=True)]
    total = torch.stack(sums).sum(0)
    return total, [one.sum(-1) for one in sums[:4]]


@pytest.mark.full
@pytest.mark.parametrize("function", [foreach, one_sum, pairs])
def test_hundreds_of_tensors_stay_under_the_cap(function):
    inputs = [torch.randn(16, 32) for _ in range(140)]
    got, codes = compiled(function, "plan", *inputs)
    torch.testing.assert_close(got, function(*inputs), rtol=1e-4, atol=1e-4)
    taken = arguments(codes)
    assert taken, "no kernel was found in the code"
    _, stocks = compiled(function, "stock", *inputs)
    assert max(taken) <= max(Limits().arguments, *arguments(stocks))


def two_sums(x, y, *rows):
    """Stock writes both; recomputed, one kernel reads all that they are made of."""
    half = len(rows) // 2
    for row in rows[:half]:
        x = x + row
    for row in rows[half:]:
        y = y + row
    return (x.roll(1, 0) * y.roll(1, 1)).sum(-1), x.sum(0), y.sum(0)


@pytest.mark.parametrize("cap", but([10], [10, 1000]))
def test_the_cap_is_what_keeps_a_plan_from_a_large_kernel(cap, monkeypatch):
    usual, search, found = graph_lowering.limits_for, graph_lowering.search, []
    monkeypatch.setattr(
        graph_lowering, "limits_for", lambda device: replace(usual(device), arguments=cap)
    )
    monkeypatch.setattr(
        graph_lowering,
        "search",
        lambda *args, **how: found.append(search(*args, **how)) or found[-1],
    )
    inputs = [torch.randn(512, 512) for _ in range(2)] + [torch.randn(512) for _ in range(10)]
    got, _ = compiled(two_sums, "plan", *inputs)
    torch.testing.assert_close(got, two_sums(*inputs), rtol=1e-4, atol=1e-3)
    # On a CPU one function has the loops of several kernels: its text does not tell.
    (one,) = found
    assert (most_arguments(one.graph) <= 10) == (cap == 10)


def chain(x):
    for step in range(1000):
        x = x * 1.001 if step % 2 else x + 0.001
    return x


def chain_with_reuse(x):
    """Every tenth value is read again much later, and some are summed up."""
    kept, sums = [], []
    for step in range(1000):
        x = x * 0.999 if step % 2 else x + 0.001
        if step % 10 == 0:
            kept.append(x)
        if step % 50 == 49:
            x = x + kept[step // 20]
            sums.append(x.sum(-1))
    return x, *sums


@pytest.mark.full
@pytest.mark.parametrize("function", [chain, chain_with_reuse])
def test_a_thousand_operations_in_a_row(function, record_property):
    x = torch.rand(64, 64)
    seconds = {}
    for policy in ("stock", "plan"):
        started = time.monotonic()
        got, _ = compiled(function, policy, x)
        seconds[policy] = time.monotonic() - started
        torch.testing.assert_close(got, function(x), rtol=1e-4, atol=1e-4)
    record_property("seconds", seconds)
    print(function.__name__, seconds)
