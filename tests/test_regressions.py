"""Every failure that the fuzz found, as small as it gets; ``tests/fuzzing`` finds more."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

import torch_materialize as tm
from fuzzing.compiled import check
from fuzzing.programs import Input, Program
from test_planner import NARROW, WIDE, Builder
from torch_materialize.core.dag import Kind, moved
from torch_materialize.core.devices import DEVICES
from torch_materialize.core.limits import Limits
from torch_materialize.core.planner import plan
from torch_materialize.core.policy import STOCK
from torch_materialize.inductor.offline import capture as capturing
from torch_materialize.inductor.offline.dry_run import dry_run


def test_what_is_written_later_is_recomputed_and_not_read():
    """An extern kernel at the end makes Inductor write what an earlier kernel had inlined."""
    build = Builder()
    x = build.value(Kind.SOURCE, WIDE)
    late = build.value(Kind.POINTWISE, NARROW, x, required=True)
    early = build.value(Kind.PINNED, NARROW, late, x, required=True)
    build.kernel(early)
    build.kernel(late)
    dag = build.dag()
    first, second = moved(dag, dag.homes())
    assert first.reads == {x: WIDE}
    assert second.reads == {x: WIDE}
    assert plan(dag, Limits()).predicted == dag.measured == 2 * (WIDE + NARROW)


def test_a_kernel_above_the_cap_gets_no_more_arguments():
    """What a kernel could read was allowed to it, however much that was."""
    build = Builder()
    sources = [build.value(Kind.SOURCE, 8) for _ in range(6)]
    total = build.value(Kind.POINTWISE, WIDE, *sources)
    build.kernel(total)
    build.kernel(build.value(Kind.POINTWISE, NARROW, total, required=True))
    dag = build.dag()
    assert plan(dag, Limits()).store == frozenset()
    # Inlining the sum would give the last kernel seven buffers instead of two.
    assert plan(dag, Limits(arguments=3)).store == {total}


@pytest.mark.e2e
@pytest.mark.usefixtures("dynamo")
def test_a_graph_that_moves_no_bytes_compiles():
    """The share that is left to save was divided by zero bytes."""
    x = torch.randn(16)
    views = torch.compile(lambda x: (x[0], x[:-1]), options=tm.options("plan"))(x)
    assert torch.equal(views[1], x[:-1])


@pytest.mark.e2e
@pytest.mark.usefixtures("dynamo")
@pytest.mark.full
def test_numerics_stock_keeps_sums_as_stock_adds_them():
    """What is stored moves reductions to other kernels, whose loops have other vectors."""
    program = Program(
        (Input((128,), "float32"), Input((32, 128), "float16")),
        (
            "v0 = a0 + a1",
            "v1 = F.silu(a1)",
            "v2 = opaque(v0.softmax(-1))",
            "v3 = v0 + 1",
            "v4 = v3.float().to(torch.float16)",
            "v5 = v4.mean(-1, keepdim=True)",
            "v6 = v0 * v0",
            "v7 = opaque(v1.softmax(-1))",
            "v2s = v2.sum(-1)",
            "v5s = v5.sum(-1)",
            "v6s = v6.sum(-1)",
        ),
        ("v2s", "v5s", "v6s", "v7"),
        at_random=True,
    )
    assert not check(program, ("stock", "plan:numerics=stock")).failures


@pytest.mark.e2e
def test_an_assertion_is_no_value_that_could_be_stored():
    """From torch 2.13 one hot has some, too; a mark on one failed where a plan had it."""

    def routed(x, ids):
        torch._assert_async((ids < 4).all(), "too large")
        return torch.nn.functional.one_hot(ids, 4).to(x.dtype) @ x

    mode = capturing.fake_mode()
    with mode:
        x, ids = torch.empty(4, 16), torch.zeros(32, dtype=torch.long)
    (graph,) = capturing.capture(routed, [x, ids], {}, DEVICES["cpu"], mode)
    assert graph.module.graph.find_nodes(
        op="call_function", target=torch.ops.aten._assert_async.msg
    )
    dag = dry_run(graph, STOCK, DEVICES["cpu"]).dag
    storable = {v.node for v in dag.values if v.kind is Kind.POINTWISE}
    assert not {name for name in storable if "assert" in name}


@pytest.mark.e2e
@pytest.mark.usefixtures("dynamo")
@pytest.mark.full
@pytest.mark.parametrize("policy", ["traffic", "plan", "plan:numerics=eager"])
def test_flex_attention_on_a_cpu_gets_nothing_fused_to_it(policy):
    """Its template takes no epilogue; what a policy stored of its result became one."""

    def attend(q, k, v):
        residual = flex_attention(q, k, v) + q
        return residual.softmax(-1), residual.mean(1), residual.mean(2)

    q, k, v = torch.randn(3, 2, 4, 512, 16)
    compiled = torch.compile(attend, options=tm.options(policy))
    torch.testing.assert_close(compiled(q, k, v), attend(q, k, v), rtol=2e-5, atol=2e-5)


@pytest.mark.e2e
@pytest.mark.usefixtures("dynamo")
@pytest.mark.full
def test_what_is_written_over_an_argument_gets_no_buffer_first():
    """Rounded for both sides of an operator, it was marked, and then copied."""
    program = Program(
        (Input((3, 16), "float16"), Input((3, 1), "float16")),
        (
            "a0.mul_(a0)",
            "v1 = torch.where(a0 > a1, a0, a1)",
            "v3 = opaque(v1.tanh())",
            "v5 = opaque(v3.softmax(-1))",
            "v6 = v1 * v5",
        ),
        ("v6",),
    )
    assert not check(program, ["plan"]).failures
