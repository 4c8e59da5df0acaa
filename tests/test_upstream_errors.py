"""What a program does wrong, or upstream cannot lower, is the program's error and not ours.

The user sees exactly what stock says, and no line of our log blames torch-materialize for it.
"""

from __future__ import annotations

import pytest
import torch
from torch._inductor import config
from torch._inductor.lowering import lowerings, register_lowering

import torch_materialize as tm

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("dynamo")]

POLICIES = ("traffic", "plan", "plan:limits=strong", "plan:limits=random", "plan:numerics=eager")


@torch.library.custom_op("torch_materialize_errors::unlowered", mutates_args=())
def unlowered(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


@unlowered.register_fake
def _(x):
    return torch.empty_like(x)


def program(x):
    y = x.sin() * 2
    return torch.ops.torch_materialize_errors.unlowered(y) + y.softmax(-1)


@pytest.fixture
def lowering_that_raises():
    operator = torch.ops.torch_materialize_errors.unlowered.default

    @register_lowering(operator)
    def lower(x):
        raise NotImplementedError("no layout for this operand: of the program's own lowering")

    yield
    for name in [name for name in lowerings if name is operator]:
        lowerings.pop(name)


def error_under(policy: str) -> Exception:
    torch._dynamo.reset()
    with pytest.raises(Exception) as raised, tm.policy(policy):
        torch.compile(program)(torch.randn(8, 16))
    return raised.value


def warned(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "torch_materialize"]


@pytest.mark.usefixtures("lowering_that_raises")
@pytest.mark.parametrize("policy", POLICIES)
def test_a_custom_lowering_that_raises(policy, lenient):
    theirs = error_under("stock")
    ours = error_under(policy)
    assert "the program's own lowering" in str(theirs)
    assert (type(ours), str(ours)) == (type(theirs), str(theirs))
    assert warned(lenient) == []


@pytest.mark.parametrize("policy", POLICIES)
def test_an_operator_that_upstream_does_not_support(policy, lenient):
    with config.patch({"implicit_fallbacks": False}):
        theirs = error_under("stock")
        ours = error_under(policy)
    assert "missing lowering" in str(theirs)
    assert (type(ours), str(ours)) == (type(theirs), str(theirs))
    assert warned(lenient) == []


@pytest.mark.usefixtures("lowering_that_raises")
@pytest.mark.parametrize("policy", POLICIES)
def test_in_strict_mode_it_is_stocks_error_too(policy):
    theirs = error_under("stock")
    ours = error_under(policy)
    assert (type(ours), str(ours)) == (type(theirs), str(theirs))
