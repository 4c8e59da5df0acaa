"""No frame of ours stands twice in the stack of one compile.

Upstream's ``test_check_stack_no_cycles`` compiles under a setting that asserts it of every frame:
who reads a profile or a traceback sees each step once.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import pytest
import torch
from torch._inductor import config

import torch_materialize as tm
from tiers import but

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("dynamo")]


def model(x):
    y = x.sin() + 1
    return torch.softmax(y * 2, -1) + y


@pytest.fixture(autouse=True)
def _no_cycles():
    with config.patch({"check_stack_no_cycles_TESTING_ONLY": True}):
        yield


POLICIES = ["stock", "traffic", "plan", "plan:limits=random", "plan:numerics=eager", "tune"]
OPTIONS = [None, {"max_fusion_size": 32}]


@pytest.mark.parametrize(
    ("policy", "options"),
    but(
        [("traffic", None), ("plan", None), ("plan", OPTIONS[1]), ("tune", None)],
        itertools.product(POLICIES, OPTIONS),
    ),
)
def test_enabled(policy, options):
    with tm.enable(policy):
        got = torch.compile(model, options=options)(torch.ones(8, 64))
    torch.testing.assert_close(got, model(torch.ones(8, 64)))


@pytest.mark.parametrize("options", but(OPTIONS[:1], OPTIONS))
def test_hooks_that_stand_for_others(options):
    """Another thread's policy may have put our wrappers up while this compile has none."""
    with tm.enable("plan"), tm.policy("stock"):
        torch.compile(model, options=options)(torch.ones(8, 64))


@pytest.mark.full
@pytest.mark.parametrize("policy", ["stock", "traffic", "plan"])
def test_options_of_one_model_and_its_backward(policy):
    x = torch.ones(8, 64, requires_grad=True)

    def trained():
        torch.compile(model, options=tm.options(policy))(x).sum().backward()

    # Of a lazily compiled backward the whole stack is looked at, and pytest's has cycles.
    with tm.enable("stock"), ThreadPoolExecutor(1) as thread:
        thread.submit(copy_context().run, trained).result()
    assert x.grad is not None
