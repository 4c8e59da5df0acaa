"""What the forward of a training step saves for its backward."""

from __future__ import annotations

import functools
import logging
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch._functorch import config as functorch_config
from torch._functorch import partitioners
from torch._inductor import config
from torch._inductor.custom_graph_pass import CustomPartitionerFn
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

import torch_materialize as tm
from torch_materialize.core.knapsack import Lot, choose
from torch_materialize.core.policy import parse, size_named
from torch_materialize.core.saving import LoweredCut
from torch_materialize.errors import CaptureError, MemoryBudgetError, UnknownPolicyError
from torch_materialize.inductor.hooks import partitioner as hook
from torch_materialize.inductor.partition import search as searching
from torch_materialize.inductor.partition.cut import cut
from torch_materialize.inductor.partition.foresee import Foresight
from torch_materialize.inductor.partition.joint import Joint
from torch_materialize.inductor.partition.lots import groups
from torch_materialize.models.names import Size
from torch_materialize.models.real import build as build_model

WIDE = 256


class Layer(torch.nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(WIDE)
        self.up = torch.nn.Linear(WIDE, 4 * WIDE)
        self.down = torch.nn.Linear(4 * WIDE, WIDE)
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, x):
        return x + self.dropout(self.down(torch.nn.functional.gelu(self.up(self.norm(x)))))


def stack(dropout: float = 0.0, layers: int = 2) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(*(Layer(dropout) for _ in range(layers)))


def step(model, options, rows: int = 512):
    """One forward and backward: gradients, and the bytes that autograd keeps between the two."""
    compiled = torch.compile(model, options=options)
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, int] = {}
    torch.manual_seed(1)
    x = torch.randn(rows, WIDE, requires_grad=True)

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in weights | {x.untyped_storage()._cdata}:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    torch.manual_seed(2)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = compiled(x)
    result.square().mean().backward()
    gradients = [x.grad, *(p.grad for p in model.parameters())]
    model.zero_grad()
    return gradients, sum(kept.values())


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    with config.patch(force_disable_caches=True):
        yield


class TestKnapsack:
    def test_the_cheapest_that_frees_enough(self):
        lots = [Lot(3, 10, 10), Lot(2, 10, 25), Lot(1, 100, 300)]
        assert choose(lots, 25) == [3, 0, 0]
        assert choose(lots, 45) == [3, 2, 0]
        assert choose(lots, 120) == [2, 0, 1]

    def test_what_costs_less_than_nothing_is_always_given_up(self):
        assert choose([Lot(2, 1, -5), Lot(1, 10, 1)], 0) == [2, 0]

    def test_what_takes_room_needs_room(self):
        assert choose([Lot(1, -10, -5), Lot(1, 10, 2)], 0) == [1, 1]
        assert choose([Lot(1, -10, -5), Lot(1, 10, 8)], 0) == [0, 0]

    def test_out_of_reach(self):
        assert choose([Lot(1, 10, 1)], 11) is None
        assert choose([], 1) is None
        assert choose([], 0) == []


class TestPolicy:
    @pytest.mark.parametrize("written", [0.7, "0.7", "70%", "0.70", " 0.7 "])
    def test_one_share_is_one_policy(self, written):
        policy = parse("plan", {"memory": written})
        assert policy == parse("plan:memory=0.7")
        assert str(policy) == "plan:memory=0.7"
        assert policy.memory == 0.7

    def test_all_is_the_default(self):
        assert parse("plan:memory=1") == parse("plan")
        assert parse("plan").memory is None

    @pytest.mark.parametrize("written", ["8GiB", "8 GiB", "8192MiB", "8.0gib", "8589934592B"])
    def test_one_size_is_one_policy(self, written):
        policy = parse("plan", {"memory": written})
        assert policy == parse("plan:memory=8GiB")
        assert str(policy) == "plan:memory=8GiB"
        assert policy.peak == 8 << 30
        assert policy.memory is None

    @pytest.mark.parametrize("size", [1, 1000, 1024, 1536, 10**9, (1 << 30) + 1])
    def test_a_size_is_named_exactly(self, size):
        assert parse(f"plan:memory={size_named(size)}").peak == size

    @pytest.mark.parametrize(
        "written", [0, -1, 1.5, "much", "", "8G", "0GiB", "-8GiB", "GiB", "nan", 8 << 30]
    )
    def test_what_is_no_share_and_no_size_is_refused(self, written):
        with pytest.raises(UnknownPolicyError, match=r"over 0 and up to 1, or a size.*8GiB"):
            tm.options("plan", memory=written)

    def test_what_is_the_fastest_need_not_fit(self):
        with pytest.raises(UnknownPolicyError, match="Use plan with it"):
            parse("tune:memory=8GiB")
        assert parse("tune:memory=0.7").memory == 0.7

    def test_stock_takes_none(self):
        with pytest.raises(UnknownPolicyError, match="numerics=stock"):
            parse("plan:numerics=stock:memory=0.7")
        with pytest.raises(UnknownPolicyError, match="takes no settings"):
            tm.options("stock", memory=0.5)

    def test_it_is_in_the_keys(self):
        keys = {tm.options("plan", memory=share)[hook.CONFIG_KEY].uuid() for share in (0.5, 0.6, 1)}
        assert len(keys) == 3
        assert tm.options("plan", memory=0.5) == tm.options("plan", memory="50%")


class TestBudget:
    @pytest.mark.full
    @pytest.mark.parametrize(("share", "layers"), [(0.5, 1), (0.8, 2)])
    def test_it_holds_and_gradients_are_stocks(self, share, layers):
        stock, before = step(stack(0.0, layers), None)
        ours, after = step(stack(0.0, layers), tm.options("plan", memory=share))
        assert after <= share * before
        for one, other in zip(ours, stock, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)

    @pytest.mark.full
    def test_dropout_drops_the_same(self):
        stock, before = step(stack(0.3), None)
        ours, after = step(stack(0.3), tm.options("plan", memory=0.6))
        assert after <= 0.6 * before
        for one, other in zip(ours, stock, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)

    @pytest.mark.full
    def test_sizes_may_be_symbolic(self):
        model = stack()
        compiled = torch.compile(model, dynamic=True, options=tm.options("plan", memory=0.5))
        for rows in (512, 700):
            x = torch.randn(rows, WIDE)
            compiled(x).square().mean().backward()
            ours = [p.grad.clone() for p in model.parameters()]
            model.zero_grad()
            model(x).square().mean().backward()
            for one, p in zip(ours, model.parameters(), strict=True):
                torch.testing.assert_close(one, p.grad, rtol=1e-4, atol=1e-6)
            model.zero_grad()

    @pytest.mark.full
    def test_out_of_reach_names_the_least_which_can_be_had(self):
        with pytest.raises(Exception, match=r"memory=0\.001 cannot be had") as caught:
            step(stack(0.3), tm.options("plan", memory=0.001))
        cause = caught.value.inner_exception
        assert isinstance(cause, MemoryBudgetError)
        torch._dynamo.reset()
        least = str(cause).rpartition("memory=")[2].split()[0]
        _, before = step(stack(0.3), None)
        _, after = step(stack(0.3), tm.options("plan", memory=least))
        assert after <= float(least) * before

    @pytest.mark.full
    @pytest.mark.usefixtures("lenient")
    def test_any_other_error_of_ours_leaves_stocks_choice(self, monkeypatch):
        _, before = step(stack(), None)
        torch._dynamo.reset()

        def fails(*_):
            raise CaptureError("on the way")

        monkeypatch.setattr(hook, "search", fails)
        _, after = step(stack(), tm.options("plan", memory=0.5))
        assert after == before

    @pytest.mark.full
    def test_the_environment_and_blocks_name_it(self):
        _, before = step(stack(), None)
        torch._dynamo.reset()
        with tm.policy("plan", memory=0.6):
            _, inside = step(stack(), None)
        with tm.enable("plan:memory=0.6"):
            torch._dynamo.reset()
            _, enabled = step(stack(), None)
        assert inside == enabled <= 0.6 * before


class TestAlive:
    """A size: the most that may be alive at once in a graph."""

    @pytest.mark.full
    def test_a_step_keeps_to_it_and_gradients_are_stocks(self, caplog):
        stock, _ = step(stack(), None, 1024)
        torch._dynamo.reset()
        with caplog.at_level(logging.INFO):
            ours, _ = step(stack(), tm.options("plan", memory="30MB"), 1024)
        assert "at most 29.4 MB alive at once, 31.5 with stock's cut" in caplog.text
        for one, other in zip(ours, stock, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)

    @pytest.mark.full
    def test_where_there_is_room_it_changes_nothing(self):
        _, before = step(stack(), tm.options("plan"), 1024)
        torch._dynamo.reset()
        _, after = step(stack(), tm.options("plan", memory="1GiB"), 1024)
        assert after == before

    @pytest.mark.full
    def test_what_an_error_names_can_be_had(self):
        with pytest.raises(Exception, match="memory=16MB cannot be had for a training st") as error:
            step(stack(), tm.options("plan", memory="16MB"), 1024)
        assert isinstance(error.value.inner_exception, MemoryBudgetError)
        torch._dynamo.reset()
        least = str(error.value.inner_exception).rpartition("memory=")[2].split()[0]
        step(stack(), tm.options("plan", memory=least), 1024)

    @pytest.mark.full
    def test_a_graph_without_gradients_says_so_too(self):
        compiled = torch.compile(lambda x: (x @ x).sin() @ x, options=tm.options("plan:memory=1MB"))
        with pytest.raises(Exception, match=r"memory=1MB cannot be had for a graph.*12MiB or more"):
            compiled(torch.randn(1024, 1024))


class TestOthers:
    @pytest.mark.full
    def test_a_programs_partitioner_keeps_its_place(self, caplog):
        calls = []

        class Theirs(CustomPartitionerFn):
            def __call__(self, gm, joint_inputs, **how):
                calls.append(gm)
                return partitioners.min_cut_rematerialization_partition(gm, joint_inputs, **how)

            def uuid(self):
                return "theirs"

        with config.patch(custom_partitioner_fn=Theirs()), caplog.at_level(logging.WARNING):
            options = tm.options("plan", memory=0.5)
            assert hook.CONFIG_KEY not in options
            step(stack(), options)
        assert calls
        assert "custom_partitioner_fn is 'Theirs'" in caplog.text

    @pytest.mark.full
    def test_upstreams_budget_keeps_its_place(self, monkeypatch):
        def fail(*_args):
            raise AssertionError("a cut was looked for")

        monkeypatch.setattr(hook, "search", fail)
        with functorch_config.patch(activation_memory_budget=0.5):
            step(stack(), tm.options("plan"))

    @pytest.mark.full
    def test_a_fault_leaves_stocks_choice(self, monkeypatch, lenient):
        def fail(*_args):
            raise RuntimeError("planted")

        monkeypatch.setattr(hook, "search", fail)
        gradients, _ = step(stack(0.0, 1), tm.options("plan"))
        assert all(gradient is not None for gradient in gradients)
        assert lenient.text.count("RuntimeError: planted") == 1

    @pytest.mark.full
    def test_checkpointed_layers(self):
        class Checkpointed(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = stack(0.3)

            def forward(self, x):
                for layer in self.layers:
                    x = checkpoint(layer, x, use_reentrant=False)
                return x

        torch.manual_seed(0)
        stock, before = step(Checkpointed(), None)
        torch.manual_seed(0)
        ours, after = step(Checkpointed(), tm.options("plan"))
        assert after <= before
        for one, other in zip(ours, stock, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


class TestPins:
    @pytest.mark.full
    def test_inline_is_recomputed_in_the_backward_and_keep_is_saved(self):
        class Model(torch.nn.Module):
            def __init__(self, pin):
                super().__init__()
                torch.manual_seed(0)
                self.first = torch.nn.Linear(WIDE, WIDE)
                self.last = torch.nn.Linear(WIDE, WIDE)
                self.pin = pin

            def forward(self, x):
                return self.last(self.pin(torch.sin(self.first(x))))

        rows = 2048
        stock, before = step(Model(lambda x: x), tm.options("plan"), rows)
        torch._dynamo.reset()
        kept, with_keep = step(Model(tm.keep), tm.options("plan"), rows)
        torch._dynamo.reset()
        inlined, with_inline = step(Model(tm.inline), tm.options("plan"), rows)
        size = rows * WIDE * 4
        assert before == with_keep == with_inline + size
        for others in (kept, inlined):
            for one, other in zip(others, stock, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def joints(model, x):
    """The joint graph of a model with what upstream knows of it, handed to a function."""
    found = []
    upstream = partitioners.choose_saved_values_set

    def look(graph, info, *more, **named):
        saved = upstream(graph, info, *more, **named)
        found.append(Joint(graph, info, list(saved)))
        return saved

    partitioners.choose_saved_values_set = look
    try:
        torch.compile(model, backend="aot_eager_decomp_partition")(x).sum().backward()
    finally:
        partitioners.choose_saved_values_set = upstream
    return found


CONVOLUTION = torch.nn.Sequential(
    torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.SiLU(), torch.nn.MaxPool2d(2)
)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (stack(0.2), (32, WIDE)),
        (CONVOLUTION, (2, 3, 16, 16)),
        (torch.nn.Softmax(-1), (8, 64)),
        (torch.nn.LSTMCell(WIDE, WIDE), (4, WIDE)),
    ],
    ids=["layers", "convolution", "softmax", "lstm"],
)
def test_dropping_nothing_is_stocks_cut(model, shape):
    first = (lambda x: model(x)[0]) if isinstance(model, torch.nn.LSTMCell) else model
    (joint,) = joints(first, torch.randn(shape, requires_grad=True))
    ours = cut(joint, ())
    given = {node for node in joint.graph.nodes if node.op == "placeholder"}
    assert set(ours.saved) - given == set(joint.saved) - given
    assert joint.saved_bytes(ours.saved) == joint.saved_bytes(joint.saved)


class Attention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(WIDE)
        self.all, self.out = torch.nn.Linear(WIDE, 3 * WIDE), torch.nn.Linear(WIDE, WIDE)

    def forward(self, x):
        found = self.all(self.norm(x)).chunk(3, -1)
        heads = [y.unflatten(-1, (4, -1)).transpose(1, 2) for y in found]
        y = torch.nn.functional.scaled_dot_product_attention(*heads)
        return x + self.out(y.transpose(1, 2).flatten(2))


def transformer() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(*(f for _ in range(3) for f in (Attention(), Layer()))).bfloat16()


@pytest.mark.parametrize("known", [1.0, 0.5], ids=["as foreseen", "they free more together"])
@pytest.mark.parametrize(
    ("model", "shape"),
    [(transformer(), (2, 64, WIDE)), (CONVOLUTION, (2, 3, 16, 16))],
    ids=["transformer", "convolution"],
)
def test_every_budget_down_to_the_least_is_reached(model, shape, known):
    dtype = next(model.parameters()).dtype
    (joint,) = joints(model, torch.randn(shape, dtype=dtype, requires_grad=True))
    foresight = Foresight(joint, cut(joint, ()))
    found = [
        replace(one, lot=replace(one.lot, room=one.lot.room * known))
        for one in groups(joint, foresight)
    ]
    stock_bytes = joint.saved_bytes(joint.saved)
    least, _ = searching.least(joint, found)
    smallest = joint.saved_bytes(least.saved)
    assert smallest < 0.8 * stock_bytes
    for step in range(11):
        budget = smallest + (stock_bytes - smallest) * step / 10
        taken, _ = searching.within(joint, foresight, found, stock_bytes, budget)
        assert joint.saved_bytes(taken.saved) <= budget
        assert foresight.cost(taken) <= foresight.cost(least)
    assert searching.within(joint, foresight, found, stock_bytes, smallest - 1) is None


def alive(joint, saved):
    """A made-up peak: what is saved, beside 10 MB that are always there."""
    kept = joint.saved_bytes(saved)
    return LoweredCut(moved=10**9 - kept, peak=10**7 + kept)


@pytest.mark.parametrize("share", [0.95, 0.8, 0.7])
def test_of_what_fits_the_fewest_bytes_are_moved(share):
    (joint,) = joints(stack(), torch.randn(1024, WIDE, requires_grad=True))
    measure = functools.partial(alive, joint)
    most = int(measure(joint.saved).peak * share)
    chosen = searching.search(joint, parse(f"plan:memory={most}B"), measure)
    assert chosen.saving.peak == measure(chosen.saved).peak <= most
    assert chosen.saving.stock_peak == measure(joint.saved).peak
    # Not much less is saved than is needed, since that costs bytes.
    assert chosen.saving.peak > 0.8 * most


class Small(torch.nn.Module):
    """Norm, matmul, activation and softmax in fp64: what a cut has to choose between."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.up = torch.nn.LayerNorm(8), torch.nn.Linear(8, 16)
        self.down = torch.nn.Linear(16, 8)
        self.double()

    def forward(self, x):
        y = torch.nn.functional.gelu(self.up(self.norm(x)))
        return torch.softmax(self.down(y) + x, -1) * x.sigmoid()


@pytest.mark.full
@pytest.mark.parametrize(
    "policy", ["plan:limits=strong", "plan:limits=random", "plan:limits=strong:memory=0.8"]
)
def test_gradients_are_the_derivatives(policy, caplog):
    """Against finite differences, whatever is recomputed."""
    model = Small()
    compiled = torch.compile(model, options=tm.options(policy))
    x = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    with caplog.at_level(logging.INFO):
        assert torch.autograd.gradcheck(compiled, x)
    if policy != "plan:limits=strong":
        assert "recomputed are" in caplog.text
    torch._dynamo.reset()


# A T5 with one layer is an encoder and a decoder, and takes minutes with two.
LAYERS = {"gpt2": 2, "t5-base": 1}


def steps(name, policy, dtype=torch.float32, dropout=True):
    """Three steps of AdamW on a small public model; how far they moved each weight."""
    torch._dynamo.reset()
    size = Size(tokens=64, batch=2, layers=LAYERS[name])
    built = build_model(name, size, torch.device("cpu"), training=True)
    model = built.model.to(dtype).train(dropout)
    before = [p.detach().double().clone() for p in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    compiled = model if policy is None else torch.compile(model, options=tm.options(policy))
    torch.manual_seed(1)
    for _ in range(3):
        result = compiled(*built.args, **built.kwargs)
        optimizer.zero_grad(set_to_none=True)
        logits = next(x for x in pytree.tree_leaves(result) if x.requires_grad)
        logits.float().square().mean().backward()
        optimizer.step()
    moved = [p.detach().double() - b for p, b in zip(model.parameters(), before, strict=True)]
    return torch.cat([x.flatten() for x in moved])


@pytest.mark.full
@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "policy"),
    [("gpt2", "plan:limits=strong:memory=0.8"), ("t5-base", "plan:limits=strong")],
    ids=["gpt2", "t5"],
)
def test_three_steps_of_a_public_model_are_stocks(name, policy):
    """With dropout as stock's are, without it as far from fp64's as stock's."""
    pytest.importorskip("transformers")
    stock, ours = steps(name, "stock"), steps(name, policy)
    assert (ours - stock).norm() < 0.02 * stock.norm()
    exact = steps(name, None, torch.float64, dropout=False)
    theirs, mine = (steps(name, one, dropout=False) - exact for one in ("stock", policy))
    assert mine.norm() < 1.5 * theirs.norm() + 1e-3 * exact.norm()


def test_the_search_does_not_depend_on_the_order_of_sets():
    """Nodes hash by address: two traces of one model have other orders."""
    names = []
    for _ in range(2):
        torch._dynamo.reset()
        (joint,) = joints(stack(), torch.randn(1024, WIDE, requires_grad=True))
        chosen = searching.search(
            joint, parse("plan:memory=0.5"), lambda _: pytest.fail("not measured")
        )
        names.append([node.name for node in chosen.saved])
    assert names[0] == names[1]


FIRST = """
import torch, torch_materialize as tm
from tests_saved_program import blocks
x, weight = torch.zeros(8, 32, 32, 32), torch.zeros(32, 32, 3, 3, requires_grad=True)
channels = [torch.ones(32, requires_grad=True) for _ in range(2)]

def explained():
    made = tm.explain(blocks, x, weight, *channels, policies=("stock", "plan"), training=True)
    return [
        {policy: (side.bytes, sorted(side.stored)) for policy, side in graph.sides.items()}
        for graph in made.explanation.graphs
    ]

first, second = explained(), explained()
assert first == second, (first, second)
"""
PROGRAM = """
import torch

def blocks(x, weight, scale, shift):
    for _ in range(3):
        y = torch.nn.functional.conv2d(x, weight, padding=1)
        y = torch.nn.functional.batch_norm(y, None, None, scale, shift, True)
        y = torch.nn.functional.silu(y)
        x = x + y * y.mean((2, 3), keepdim=True).sigmoid()
    return x
"""


@pytest.mark.full
@pytest.mark.e2e
def test_the_first_explanation_of_a_process_is_like_the_second(tmp_path):
    """Nothing was registered to replace upstream's choice before a graph was first lowered."""
    (tmp_path / "tests_saved_program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-c", FIRST], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.full
def test_whoever_imports_a_hook_gets_all_wrappers():
    code = (
        "from torch_materialize.inductor.hooks import sites; assert len(sites._wrappers) == 5;"
        "assert len(sites._for_good) == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
