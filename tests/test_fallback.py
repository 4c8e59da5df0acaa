"""A compile that stock makes is made under every policy, whatever the plan leads to."""

from __future__ import annotations

import pytest
import torch
from torch._inductor.codegen.cpp import CppScheduling
from torch._inductor.virtualized import V

import torch_materialize as tm
from torch_materialize import activation
from torch_materialize.inductor.read.recording import Recording

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("dynamo")]

N = 512


def masked(x, y, w, big):
    """A public report's program: what a plan writes lies wholly inside one outer loop."""
    i = torch.arange(N)
    m = torch.full((N, N), -1.0)
    m[i.unsqueeze(0), i.unsqueeze(1)] = 0.5
    s = x * y + m  # stock computes it in all three kernels; a plan writes it
    z = (torch.softmax(s, -1) @ w).relu() * s
    z = (z @ w).relu() * s
    half = big[:, :4096]
    return z, (z @ big).relu().sum(-1), ((z @ half).sigmoid() @ half.t()).relu()


@pytest.mark.full
@pytest.mark.parametrize("policy", ["traffic", "plan"])
def test_a_tensor_inside_of_one_outer_loop(policy):
    """Strict: the code is generated, and not only that of stock after all."""
    torch.manual_seed(0)
    arguments = [torch.randn(N, N) / 16 for _ in range(3)] + [torch.randn(N, 8192) / 16]
    got = torch.compile(masked, options=tm.options(policy))(*arguments)
    torch.testing.assert_close(got, masked(*arguments), rtol=1e-3, atol=1e-3)


@pytest.fixture
def no_code(lenient, monkeypatch):
    """C++ code cannot be generated for what a policy governs; what was logged."""
    upstream = CppScheduling.codegen_node

    def codegen_node(self, node):
        if not isinstance(V.graph, Recording) and not activation.is_given_up():
            raise NotImplementedError("planted")
        return upstream(self, node)

    monkeypatch.setattr(CppScheduling, "codegen_node", codegen_node)
    return lenient


@pytest.mark.full
def test_a_backward_that_is_compiled_after_the_policy_was_undone(no_code):
    x = torch.randn(64, 64, requires_grad=True)
    handle = tm.enable("plan")
    loss = torch.compile(lambda x: (x.sin() * x.exp()).sum())(x)
    handle.undo()
    loss.backward()
    torch.testing.assert_close(x.grad, (x.cos() * x.exp() + x.sin() * x.exp()).detach())
    assert "planted" in no_code.text


def test_with_options_alone_and_sizes_that_only_the_data_tells(no_code):
    def fn(x):
        kept = (x > 0).nonzero()
        torch._check(kept.shape[0] < 1000)
        return kept * 2 + 1, x.exp() + kept.shape[0]

    settings = torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True)
    compiled = torch.compile(fn, dynamic=True, options=tm.options("traffic"))
    with settings:
        for n in (16, 3, 40):
            x = torch.randn(n)
            torch.testing.assert_close(compiled(x), fn(x))
    assert "planted" in no_code.text
