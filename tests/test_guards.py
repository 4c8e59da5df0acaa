"""Guards, symbols and recompilations are stock's, whatever was dry-run before.

Each program is compiled for sizes that change, with stock and under a policy.  No kernel is
built: outputs are whatever memory holds, and the sizes and guards are real.
"""

from __future__ import annotations

import contextlib
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.custom_graph_pass import CustomGraphPass

import torch_materialize as tm
from tiers import but
from torch_materialize.inductor.lower.shapes import scratch_shapes

pytestmark = [pytest.mark.e2e, pytest.mark.long]


def _image(n):
    return (torch.randn(2, 4, n, n),)


def _rows(n):
    return (torch.randn(n, 8),)


def _square(n):
    return (torch.randn(n, n),)


def _sequence(n):
    return (torch.randn(2, 4, n, 8),)


CASES = {
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, (6, 6)) * 2, _image),
    "adaptive_avg_pool1d": (lambda x: F.adaptive_avg_pool1d(x[0], 5) + 1, _image),
    "adaptive_max_pool2d": (lambda x: F.adaptive_max_pool2d(x, 3) + 1, _image),
    "avg_pool2d": (lambda x: F.avg_pool2d(x.relu(), 3, 2, 1).exp(), _image),
    "avg_pool2d of one window": (lambda x: F.avg_pool2d(x, x.shape[-1]) * 2, _image),
    "max_pool2d": (lambda x: F.max_pool2d(x.exp(), 2).relu(), _image),
    "lp_pool2d": (lambda x: F.lp_pool2d(x.abs() + 1, 2, 2), _image),
    "interpolate nearest": (lambda x: F.interpolate(x, scale_factor=2) + 1, _image),
    "interpolate bilinear": (
        lambda x: F.interpolate(x, size=(7, 7), mode="bilinear") + 1,
        _image,
    ),
    "interpolate bicubic": (lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), _image),
    "interpolate area": (lambda x: F.interpolate(x, size=4, mode="area") + x.sum(), _image),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x, 2) * 2, _image),
    "unfold": (lambda x: F.unfold(x, 2).relu().sum(-1), _image),
    "reflection_pad2d": (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect") * 2, _image),
    "replication_pad2d": (lambda x: F.pad(x, (2, 1, 0, 1), mode="replicate") * 2, _image),
    "constant pad": (lambda x: F.pad(x, (0, x.shape[-1] % 4)).exp(), _image),
    "conv2d": (lambda x: F.conv2d(x, torch.ones(4, 4, 3, 3)).relu() + 1, _image),
    "conv_transpose2d": (lambda x: F.conv_transpose2d(x, torch.ones(4, 4, 2, 2)).relu(), _image),
    "group_norm": (lambda x: F.group_norm(x, 2).sigmoid(), _image),
    "batch_norm": (lambda x: F.batch_norm(x, None, None, training=True).relu(), _image),
    "as_strided": (lambda x: (x + 1).as_strided((x.shape[0], 2), (8, 1)) * 2, _rows),
    "repeat_interleave": (lambda x: (x * 2).repeat_interleave(3, 0) + 1, _rows),
    "roll": (lambda x: (x + 1).roll(2, 0) * x, _rows),
    "chunk": (lambda x: [part.exp() for part in (x + 1).chunk(2, 0)], _rows),
    "split": (lambda x: [part.exp() for part in (x + 1).split(x.shape[0] // 2 + 1)], _rows),
    "cat": (lambda x: torch.cat([x.exp(), x + 1, x[:2]]).relu(), _rows),
    "view": (lambda x: (x.exp() + 1).view(-1, 4).sum(0), _rows),
    "unflatten": (lambda x: (x + 1).unflatten(1, (2, -1)).amax(0), _rows),
    "topk": (lambda x: (x + 1).topk(min(3, x.shape[0]), 0)[0] * 2, _rows),
    "sort": (lambda x: (x + 1).sort(0)[0] * 2, _rows),
    "cumsum": (lambda x: (x + 1).cumsum(0).exp(), _rows),
    "logcumsumexp": (lambda x: (x + 1).logcumsumexp(0) * 2, _rows),
    "var_mean": (lambda x: torch.var_mean(x.exp(), 0), _rows),
    "softmax": (lambda x: (x * 2).softmax(0) + x.exp(), _rows),
    "layer_norm": (lambda x: F.layer_norm(x.exp(), (8,)) * x, _rows),
    "scatter_add": (
        lambda x: torch.zeros_like(x).scatter_add(0, x.long().clamp(0, 1), x.exp()) + x,
        _rows,
    ),
    "index_put": (
        lambda x: (x + 1).index_put((torch.arange(x.shape[0]) % 2,), x.exp(), accumulate=True),
        _rows,
    ),
    "one_hot": (lambda x: F.one_hot(x.long().abs() % 8, 8).float() * x.sum(), _rows),
    "bucketize": (lambda x: torch.bucketize(x.exp(), torch.arange(4.0)) + 1, _rows),
    "embedding": (lambda x: F.embedding(x.long().abs() % 4, torch.ones(4, 3)).exp() + 1, _rows),
    "linalg.norm": (lambda x: torch.linalg.norm(x.exp()) + torch.linalg.norm(x, dim=0), _rows),
    "cdist": (lambda x: torch.cdist(x.exp(), x) * 2, _rows),
    "einsum": (lambda x: torch.einsum("ij,kj->ik", x.exp(), x + 1).relu(), _rows),
    "inverse": (lambda x: torch.linalg.inv(x.exp() + torch.eye(x.shape[0])).relu(), _square),
    "tril": (lambda x: (x.exp().tril() + 1).triu(1) * x, _square),
    "diagonal": (lambda x: (x.exp() + 1).diagonal() * 2, _square),
    "matmul": (lambda x: (x.exp() @ x + x.shape[0]).relu(), _square),
    "attention with a causal mask": (
        lambda x: F.scaled_dot_product_attention(x.exp(), x, x + 1, is_causal=True) * 2,
        _sequence,
    ),
    "attention with a mask": (
        lambda x: F.scaled_dot_product_attention(
            x, x, x, torch.ones(x.shape[2], x.shape[2], dtype=torch.bool).tril()
        ),
        _sequence,
    ),
    "a mask of its own": (
        lambda x: (
            (x @ x.mT)
            .masked_fill(torch.arange(x.shape[2])[:, None] < torch.arange(x.shape[2]), -1e9)
            .softmax(-1)
            @ x
        ),
        _sequence,
    ),
    "a size compared": (lambda x: x.exp() + (1 if x.shape[0] < 20 else 2), _rows),
    "a size divided": (lambda x: x.exp()[: x.shape[0] // 3 * 2].relu() + 1, _rows),
    "nonzero": (lambda x: (x.exp() > 1).nonzero() * 2 + 1, _rows),
    "masked_select": (lambda x: x.exp()[x > 0] * 2 + 1, _rows),
    "item": (lambda x: x.exp() + (x > 0).sum().item(), _rows),
    "unique": (lambda x: x.long().unique() * 2 + 1, _rows),
    "checked size": (lambda x: _checked(x).exp() + 1, _rows),
}


def _checked(x):
    kept = (x > 0).nonzero()
    torch._check(kept.shape[0] >= 0)
    torch._check(kept.shape[0] < 1000)
    return kept * 2


class _ShapeEnvs(CustomGraphPass):
    """Notes the ShapeEnv of every graph that is compiled."""

    def __init__(self):
        self.seen = []

    def __call__(self, graph):
        values = (node.meta.get("val") for node in graph.nodes)
        self.seen += [next(x.fake_mode.shape_env for x in values if isinstance(x, torch.Tensor))]

    def uuid(self):
        return None


@contextlib.contextmanager
def _no_kernels():
    """Generated C++ is not built: each kernel does nothing."""
    settings = {
        "capture_dynamic_output_shape_ops": True,
        "capture_scalar_outputs": True,
        "recompile_limit": 64,
    }
    nothing = mock.patch.object(
        AsyncCompile, "cpp_pybinding", lambda self, types, source: lambda *args: None
    )
    with nothing, torch._dynamo.config.patch(settings):
        yield


def _facts(env):
    """What a ShapeEnv knows that a program may depend on, in comparable form."""
    return {
        "guards": sorted({str(guard.expr) for guard in env.guards}),
        "replacements": sorted(map(str, env.replacements.items())),
        "ranges": sorted(map(str, env.var_to_range.items())),
        "divisible": sorted(map(str, env.divisible)),
        "asserts": sorted(
            str(a.expr) for each in env.deferred_runtime_asserts.values() for a in each
        ),
        "symbols": (env.unbacked_symint_counter, sorted(map(str, env.source_to_var.items()))),
        "renamings": sorted(map(str, env.unbacked_renamings.items())),
    }


def _compiled(fn, make, policy):
    """What every compile knew in the end, over sizes that come one after the other."""
    torch._dynamo.reset()
    noted = _ShapeEnvs()
    options = {**tm.options(policy), "post_grad_custom_pre_pass": noted}
    compiled = torch.compile(fn, dynamic=True, options=options)
    with _no_kernels(), torch.no_grad():
        for n in (16, 3, 40):
            torch.manual_seed(n)
            with contextlib.suppress(RuntimeError):  # too small for this operator: in eager, too
                compiled(*make(n))
    return [_facts(env) for env in noted.seen]


@pytest.mark.parametrize("name", but(["cat", "topk"], CASES))
def test_guards_symbols_and_recompilations_are_stocks(dynamo, name):
    stock = _compiled(*CASES[name], "stock")
    assert stock, "the program is not compiled at all"
    assert _compiled(*CASES[name], "plan") == stock


@pytest.mark.full
def test_a_pool_of_changing_size_is_right(dynamo):
    """The first report: sizes were taken from the first one, and read out of bounds."""

    def fn(x):
        return F.adaptive_avg_pool2d(x, (6, 6)) * 2

    compiled = torch.compile(fn, dynamic=True, options=tm.options("plan"))
    for n in (16, 3, 40):
        x = torch.randn(2, 4, n, n)
        torch.testing.assert_close(compiled(x), fn(x))


def test_nothing_that_a_scratch_learns_stays():
    from torch._dynamo.source import ConstantSource
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

    env = ShapeEnv()
    mode = FakeTensorMode(shape_env=env)

    def symbol(hint, name):
        source = ConstantSource(name)
        made = env.create_symbol(hint, source, dynamic_dim=DimDynamic.DYNAMIC)
        return env.create_symintnode(made, hint=hint, source=source)

    a, b, c = symbol(16, "a"), symbol(16, "b"), symbol(40, "c")
    assert a < 20
    before = {name: str(value) for name, value in vars(env).items()}
    kept = {
        name: value for name, value in vars(env).items() if isinstance(value, dict | list | set)
    }
    with scratch_shapes(mode):
        assert int(c) == 40
        assert c > 30
        u = env.create_unbacked_symint()
        torch._check(u < 5)
        assert a == b or a != b
        assert str(c.node.expr) == "40"
    assert {name: str(value) for name, value in vars(env).items()} == before
    assert all(vars(env)[name] is value for name, value in kept.items())
    # And what was asked there is asked again, with its guard.
    assert str(c.node.expr) != "40"
    assert c > 30
    assert int(c) == 40
    assert len(env.guards) == 3
