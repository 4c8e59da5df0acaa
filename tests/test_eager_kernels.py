"""``numerics="eager"`` rounds within an operator as eager's kernel for it does, on a CPU."""

from __future__ import annotations

import pytest
import torch
from torch._inductor import config
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch._inductor.decomposition import select_decomp_table
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

import torch_materialize as tm
from tiers import but
from torch_materialize.inductor.fx.eager_kernels import WRITTEN

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("dynamo")]

TYPES = torch.bfloat16, torch.float16
EACH = {"reduction": "none"}

# Of x, y and the target t between 0 and 1; none of them has rounding of its own around it.
OPERATORS = {
    "add, alpha": lambda x, y, t: torch.add(x, y, alpha=0.3),
    "sub, alpha": lambda x, y, t: torch.sub(x, y, alpha=0.7),
    "rsub, alpha": lambda x, y, t: torch.rsub(x, y, alpha=0.3),
    "add a number, alpha": lambda x, y, t: torch.add(x, 0.7, alpha=0.3),
    "glu": lambda x, y, t: F.glu(x),
    "lerp, tensor": torch.lerp,
    "mse": lambda x, y, t: F.mse_loss(x, y, **EACH),
    "mse, mean": lambda x, y, t: F.mse_loss(x, y),
    "huber": lambda x, y, t: F.huber_loss(x, y, delta=1.3, **EACH),
    # Far apart: eager halves before it squares, which differs where fp16 has few digits.
    "smooth l1": lambda x, y, t: F.smooth_l1_loss(t, 2 * y.sign(), beta=1.3, **EACH),
    "bce": lambda x, y, t: F.binary_cross_entropy(t, t.flip(0).detach(), **EACH),
    "bce, logits": lambda x, y, t: F.binary_cross_entropy_with_logits(x, t, **EACH),
    "bce, logits, weights": lambda x, y, t: F.binary_cross_entropy_with_logits(
        x, t, weight=y.abs(), pos_weight=t, **EACH
    ),
    "kl": lambda x, y, t: F.kl_div(x, t, **EACH),
    "soft margin": lambda x, y, t: F.soft_margin_loss(x, y.sign().detach(), **EACH),
    "hinge": lambda x, y, t: F.hinge_embedding_loss(x, y.sign().detach(), margin=1.3, **EACH),
    "xlogy": lambda x, y, t: torch.xlogy(x, t),
    "xlogy of fp32": lambda x, y, t: torch.xlogy(x, 2 * F.mse_loss(x.float(), t.float())),
    "xlog1py, number": lambda x, y, t: torch.special.xlog1py(x, 0.3),
    "number, xlogy": lambda x, y, t: torch.xlogy(0.3, t),
    "xlog1py": lambda x, y, t: torch.special.xlog1py(x, t),
    "logit": lambda x, y, t: t.logit(),
    "logit, eps": lambda x, y, t: t.logit(0.3),
    "addr": lambda x, y, t: torch.addr(x[:, :64], y[:, 0], t[:, 0]),
    "cross": lambda x, y, t: torch.linalg.cross(x[:, :3], y[:, :3]),
    "log_softmax": lambda x, y, t: x.log_softmax(-1),
    "log_softmax, columns": lambda x, y, t: x.log_softmax(0),
    "//": lambda x, y, t: x // y,
    "// a number": lambda x, y, t: x // -0.3,
    "truncated": lambda x, y, t: torch.div(x, 0.3, rounding_mode="trunc"),
    "a number //": lambda x, y, t: 3.7 // y,
    "a constant + x": lambda x, y, t: torch.tensor(0.3) + x,
    "x - a constant": lambda x, y, t: x - torch.tensor(0.3),
    "a constant * x": lambda x, y, t: torch.tensor(0.3) * x,
    "x * a constant": lambda x, y, t: x * torch.tensor(0.3),
    "a constant / x": lambda x, y, t: torch.tensor(0.3) / x,
    "x / a constant": lambda x, y, t: x / torch.tensor(0.3),
    "filled": lambda x, y, t: torch.full_like(x, 1.3) * x - torch.full((256,), 0.7, dtype=x.dtype),
    "padded": lambda x, y, t: F.pad(x, (1, 1), value=0.3) * 1.7 + 1,
}
# Eager's own order is another one in the gradients of the rest.
WITH_GRADIENTS = (
    "add, alpha", "lerp, tensor", "mse", "mse, mean", "huber", "bce", "bce, logits", "kl",
    "xlogy", "logit",
)  # fmt: skip


def every(operators, inputs):
    return {name: operators[name](*inputs[name]) for name in inputs}


def operands(dtype, names, **how):
    """For each operator operands of its own, so that no gradients are added up."""
    torch.manual_seed(0)
    made = {}
    for name in names:
        x, y, t = torch.randn(64, 256), torch.randn(64, 256), torch.rand(64, 256)
        made[name] = [one.to(dtype).requires_grad_(**how) for one in (x, y, t)]
    return made


def apart(found, wanted):
    return [n for n in wanted if not torch.equal(found[n].nan_to_num(), wanted[n].nan_to_num())]


@pytest.mark.parametrize("dtype", but(TYPES[:1], TYPES))
@torch.no_grad()
def test_an_operator_rounds_as_eagers_kernel_does(dtype):
    inputs = operands(dtype, OPERATORS, requires_grad=False)
    wanted = every(OPERATORS, inputs)
    eager = torch.compile(every, options=tm.options("plan:numerics=eager"))
    assert apart(eager(OPERATORS, inputs), wanted) == []


@pytest.mark.full
@pytest.mark.parametrize("dtype", TYPES)
def test_its_gradients_do_too(dtype):
    inputs = operands(dtype, WITH_GRADIENTS, requires_grad=True)
    eager = torch.compile(every, options=tm.options("plan:numerics=eager"))

    def gradients(of):
        found = of(OPERATORS, inputs)
        torch.manual_seed(1)
        weights = [torch.randn_like(one) for one in found.values()]
        leaves = [one for name in inputs for one in inputs[name]]
        given = torch.autograd.grad([*found.values()], leaves, weights, allow_unused=True)
        places = (f"{name} {place}" for name in inputs for place in range(3))
        return {p: g for p, g in zip(places, given, strict=True) if g is not None}

    assert apart(gradients(eager), gradients(every)) == []


@torch.no_grad()
def test_a_tensor_without_dimensions_keeps_the_digits_that_eager_takes():
    x, s = torch.randn(64, 256).bfloat16(), torch.tensor(0.3)

    def products(x, s):
        return {
            "//": x // s,
            "mul": x * s,
            "rmul": s * x,
            "div": x / s,
            "rdiv": s / x,
            "add": x + s,
            "exp": x * s.exp(),
        }

    eager = torch.compile(products, options=tm.options("plan:numerics=eager"))
    assert apart(eager(x, s), products(x, s)) == []


@torch.no_grad()
def test_a_size_scales_what_is_added_as_in_eager():
    x, y = torch.randn(64, 256).bfloat16(), torch.randn(64, 256).bfloat16()
    torch._dynamo.mark_dynamic(x, 1)
    torch._dynamo.mark_dynamic(y, 1)

    def scaled(x, y):
        return torch.add(x, y, alpha=x.shape[1] - 1)

    eager = torch.compile(scaled, options=tm.options("plan:numerics=eager"))
    assert torch.equal(eager(x, y), scaled(x, y))


@pytest.mark.parametrize("dtype", but([torch.float32], [torch.float32, torch.float64]))
@torch.no_grad()
def test_a_floor_division_is_eagers_in_every_type(dtype):
    """Upstream's quotient is one more where the division rounds up: 1 // 0.1 is 9."""
    torch.manual_seed(0)
    x, y = 10 * torch.randn(64, 256, dtype=dtype), torch.randn(64, 256, dtype=dtype)
    x[0], y[0], y[1], x[2], y[3] = 1, 0.1, 0, 0, float("inf")
    stock, eager = (
        torch.compile(lambda x, y: x // y, options=tm.options(policy))(x, y)
        for policy in ("stock", "plan:numerics=eager")
    )
    wanted = x // y
    assert torch.equal(eager.nan_to_num(), wanted.nan_to_num())
    assert torch.equal(eager.signbit(), wanted.signbit())
    assert not torch.equal(stock.nan_to_num(), wanted.nan_to_num())


@torch.no_grad()
def test_a_step_that_two_operators_share_is_rounded_for_one_of_them():
    """Equal nodes are one: the difference is rounded for one loss, and not for the other."""
    torch.manual_seed(0)
    x, y = torch.randn(64, 256).bfloat16(), torch.randn(64, 256).bfloat16()

    def losses(x, y):
        return {"mse": F.mse_loss(x, y, **EACH), "smooth l1": F.smooth_l1_loss(x, y, **EACH)}

    eager = torch.compile(losses, options=tm.options("plan:numerics=eager"))
    assert apart(eager(x, y), losses(x, y)) == []


@torch.library.custom_op("torch_materialize_kernel_tests::norm", mutates_args=())
def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return steps(x, weight)


@norm.register_fake
def _norm(x, weight):
    return torch.empty_like(x)


def steps(x, weight):
    """As vLLM's norms: the product is rounded before the weight and after it."""
    wide = x.float()
    return (wide * (wide.amax(-1, keepdim=True) + 1).rsqrt()).to(x.dtype) * weight


class Lowering(CustomGraphPass):
    """Lowers the operator after everything was traced, as vLLM does with its own."""

    def __call__(self, graph):
        for node in graph.find_nodes(op="call_function", target=norm._opoverload):
            made = make_fx(steps, select_decomp_table())(*(one.meta["val"] for one in node.args))
            copies = dict(zip(made.graph.find_nodes(op="placeholder"), node.args, strict=True))
            with graph.inserting_before(node):
                result = graph.graph_copy(made.graph, copies)
            for copy in set(copies.values()) - set(node.args):
                copy.meta["original_aten"] = node.target
                # vLLM traces it while nothing marks what eager runs.
                copy.meta.pop(WRITTEN, None)
            node.replace_all_uses_with(result)
            graph.erase_node(node)

    def uuid(self):
        return b"lowering"


@torch.no_grad()
def test_what_a_pass_makes_of_an_operator_rounds_as_eager_ran_it():
    torch.manual_seed(0)
    x, weight = torch.randn(64, 256).bfloat16(), torch.randn(256).bfloat16()

    def program(x, weight):
        return norm(x, weight).float() * 1.7

    with config.patch(post_grad_custom_post_pass=Lowering()):
        eager = torch.compile(program, options=tm.options("plan:numerics=eager"))(x, weight)
    assert torch.equal(eager, program(x, weight))
