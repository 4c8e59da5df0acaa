"""`agree`: what is run agrees with eager or does not, bit for bit, and where it parts."""

from __future__ import annotations

import json
import math
import textwrap

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import torch_materialize as tm
from torch_materialize.agreement.compiled import Pieces, Recorder, backend_of
from torch_materialize.agreement.ranges import cut_places, operators, part, places
from torch_materialize.agreement.values import compared, named_tensors, worst
from torch_materialize.cli.main import main
from torch_materialize.core.ways import PIECES, WHOLE
from torch_materialize.jobs.agree import agree_target
from torch_materialize.models.language import Language
from torch_materialize.results.agreement import AGREEMENT

BF16 = torch.bfloat16

#: Two norms without a mean: a cast is left out inside of a kernel, and sums are not in it.
CHAIN = """
    import torch
    from torch import nn

    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(1)
            self.weight = nn.Parameter(torch.randn(64, dtype=torch.bfloat16))
            self.mix = nn.Parameter(torch.randn(64, 64, dtype=torch.bfloat16) / 8)

        def forward(self, x):
            x = (x.float() * 1.7).to(x.dtype) * self.weight
            return (x @ self.mix).float() * 0.3

    def build():
        return Chain(), torch.randn(32, 64, dtype=torch.bfloat16)

    def summed():
        return lambda x: x.mean(-1), torch.randn(64, 1000)

    def alike():
        return lambda x: x.relu() + 1, torch.randn(64, 64)
"""


@pytest.fixture
def chain(tmp_path):
    path = tmp_path / "chain.py"
    path.write_text(textwrap.dedent(CHAIN), encoding="utf-8")
    return path


# Bits.


def test_bits_tell_apart_what_numbers_do_not():
    zero, nan = torch.tensor([0.0, 1.0]), torch.tensor([math.nan, 1.0])
    found = compared({"x": -zero}, {"x": zero})
    assert (found.elements, found.equal, found.largest) == (2, 0, 2.0)
    assert compared({"x": nan}, {"x": nan.clone()}).is_same
    assert compared({"x": nan}, {"x": zero}).largest == math.inf
    assert compared({"x": zero}, {"x": zero, "y": zero}).equal == 2  # y is missing
    assert not compared({"x": zero.double()}, {"x": zero}).equal


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bool, torch.int8, torch.complex64])
def test_numbers_of_every_type_are_compared(dtype):
    want = torch.tensor([[1.0, 0.0], [-128.0, 0.0]]).to(dtype)
    assert compared({"x": want.clone()}, {"x": want}).is_same
    found = compared({"x": torch.zeros(2, 2).to(dtype)}, {"x": want})
    size = 1.0 if dtype == torch.bool else 128.0
    assert (found.equal, found.largest, found.scale) == (2, size, size)


def test_steps_are_representable_numbers_between_two():
    def steps(a, b, dtype=BF16):
        return worst(torch.tensor([a], dtype=dtype), torch.tensor([b], dtype=dtype)).steps

    assert steps(1.0, 1.0078125) == 1
    assert steps(-1.0, -1.0078125) == 1
    assert steps(-0.0, 0.0) == 0
    assert steps(-1e-45, 1e-45, torch.float32) == 2
    assert steps(1.0, math.nan) == -1
    found = worst(torch.tensor([1.0, 5.0], dtype=BF16), torch.tensor([1.0, 2.0], dtype=BF16))
    assert found.differ == 1 and found.eager == "2 (0x4000)" and found.compiled == "5 (0x40a0)"


def test_rows_are_those_of_the_first_tensor_with_several():
    logits = torch.tensor([[1.0, 2.0], [4.0, 3.0]])
    found = compared({"a": logits.flip(0), "b": logits}, {"a": logits, "b": logits})
    assert (found.rows, found.rows_equal) == (2, 0)
    assert list(found.differing) == ["a"]


def test_tensors_are_named_by_where_they_stand():
    one = torch.zeros(1)
    result = {"logits": one, "states": (one, [one])}
    assert list(named_tensors(result)) == ["logits", "states.0", "states.1.0"]
    assert list(named_tensors(one)) == ["output"]


# Ranges of a graph.


def recorded(model, *inputs):
    torch._dynamo.reset()
    recorder = Recorder()
    with torch.no_grad():
        want = torch.compile(model, backend=recorder, dynamic=False)(*inputs)
    return recorder.graphs, want


def test_a_graph_in_pieces_is_the_graph(dynamo):
    torch.manual_seed(0)
    model, ids = Language(layers=2, hidden=32, heads=2, vocabulary=50), torch.arange(8)
    (graph,), want = recorded(model, ids)
    count = len(operators(graph.module))
    for how, least in (("attention", 5), ("matmul", 15), ("layers", 2)):
        ranges = cut_places(graph.module, how)
        assert len(ranges) >= least, how
        assert [start for start, _, _ in ranges] == [0, *(stop for _, stop, _ in ranges[:-1])]
        assert ranges[-1][1] == count
        values = dict(zip([n.name for n in graph.module.graph.nodes], graph.inputs, strict=False))
        for start, stop, _ in ranges:
            piece = part(graph.module, start, stop)
            with torch.no_grad():
                found = piece.module(*[values[name] for name in piece.inputs])
            values.update(zip(piece.outputs, found, strict=True))
        assert torch.equal(values[piece.outputs[-1]], want), how


def test_what_is_no_tensor_and_what_is_a_block_is_not_cut(dynamo):
    def blocks(x):
        left, right = x.chunk(2, -1)
        with torch.autocast("cpu", torch.bfloat16):
            y = left @ right.t()
        return y.relu() + 1

    (graph,), _ = recorded(blocks, torch.randn(8, 8))
    names = [str(getattr(n.target, "__name__", n.target)) for n in operators(graph.module)]
    inside = range(names.index("_enter_autocast") + 1, names.index("_exit_autocast") + 1)
    allowed = places(graph.module)
    assert allowed and not set(inside) & set(allowed)
    assert names.index("chunk") + 1 not in allowed
    assert len(cut_places(graph.module, "matmul")) == 1  # the matmul is inside of the block


@pytest.mark.e2e
@pytest.mark.full
def test_pieces_keep_nothing_longer_than_it_is_read(dynamo):
    (graph,), want = recorded(lambda x: (x.sin() @ x).cos() @ x, torch.randn(16, 16))
    pieces = Pieces(graph.module, backend_of("stock", None), "matmul")
    dropped = [name for names in pieces._drops for name in names]
    assert len(dropped) == len(set(dropped)) == len({n for p, _ in pieces._steps for n in p.inputs})
    with torch.no_grad():
        found = pieces(*graph.inputs)
    assert torch.allclose(found[0], want, atol=1e-5)
    assert pieces.compiled == 2


# The whole.


def by_way(found):
    return {(way.policy, way.how): way for way in found.ways}


@pytest.mark.e2e
def test_a_cast_that_is_left_out_is_found_at_its_line(dynamo, chain):
    policies = ["plan:numerics=eager"]
    found = agree_target(f"{chain}:build", policies, rounds=0)
    ways = by_way(found)
    assert found.cut == "matmul" and found.eager_repeats and found.graph_repeats
    for how in (WHOLE, PIECES):
        assert ways["plan:numerics=eager", how].is_same
        (first,) = ways["stock", how].arises
        assert first.operator == "mul" and first.alone is False
        assert first.source == f"{chain}:13" and "self.weight" in first.text
        assert first.steps >= 1
        assert 0 < first.differ < first.elements == 32 * 64
    assert 0 < ways["stock", WHOLE].outputs.share < 1


@pytest.mark.e2e
@pytest.mark.full
def test_a_sum_in_another_order_differs_alone(dynamo, chain):
    found = agree_target(f"{chain}:summed", ["plan:numerics=eager"], rounds=0)
    assert found.cut == "" and {way.how for way in found.ways} == {WHOLE}
    (first,) = by_way(found)["plan:numerics=eager", WHOLE].arises
    assert first.operator == "mean" and first.alone is True and first.type == "float32[64]"


@pytest.mark.e2e
@pytest.mark.full
def test_gradients_are_compared_too(dynamo, chain):
    found = agree_target(f"{chain}:build", ["plan:numerics=eager"], training=True, rounds=0)
    ways = by_way(found)
    stock = ways["stock", WHOLE]
    assert stock.gradients is not None and stock.gradients.elements == 64 + 64 * 64
    assert not stock.gradients.is_same
    ours = ways["plan:numerics=eager", WHOLE]
    assert ours.outputs.is_same and ours.gradients.share > stock.gradients.share
    assert {one.direction for one in stock.arises} == {"forward", "backward"}


@pytest.mark.e2e
def test_the_command_says_the_verdict_first_and_keeps_a_record(
    dynamo, chain, tmp_path, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "80")
    path = tmp_path / "agreement.json"
    words = [f"{chain}:alike", "--policy", "plan", "--rounds", "2", "--json", str(path)]
    done = CliRunner().invoke(main, ["agree", *words])
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    assert "`stock` and `plan` gave eager's outputs, bit for bit." in text
    assert "Beside eager" in text and "x1.00" in text
    found = AGREEMENT.load(path)
    assert all(way.is_same and way.seconds > 0 for way in found.ways)
    assert found.rounds == 2 and json.loads(path.read_text())["same"] == {
        "stock, whole": True,
        "plan, whole": True,
    }


@pytest.mark.full
@pytest.mark.e2e
@pytest.mark.parametrize("target", ["language", "fused-add-rmsnorm", "gpt2", "qwen3-30b-a3b"])
def test_built_in_models_run(dynamo, target):
    found = agree_target(target, ["plan:numerics=eager"], tokens=16, rounds=0, where=False)
    ways = by_way(found)
    assert found.eager_repeats
    ours, stock = ways["plan:numerics=eager", WHOLE], ways["stock", WHOLE]
    assert ours.outputs.share >= stock.outputs.share
    assert all(ways["plan:numerics=eager", how].outputs.largest < 0.1 for how in (WHOLE, PIECES))


# What cannot run.

BROKEN = """
    import torch

    def meta():
        return torch.nn.Linear(4, 4, device="meta"), torch.randn(2, 4)

    def mismatched():
        return torch.nn.Linear(4, 4), torch.randn(2, 5)

    def frozen():
        return torch.nn.ReLU(), torch.randn(2, 4)

    def graphless():
        return (lambda: 3), ()
"""


@pytest.mark.parametrize(
    ("name", "how", "words"),
    [
        ("meta", {}, "meta device"),
        ("mismatched", {}, "does not run eagerly"),
        ("frozen", {"training": True}, "expected weights or inputs that require gradients"),
        ("graphless", {}, "finds no graph"),
        ("absent", {}, "has no function 'absent'"),
        ("mismatched", {"device": "h2"}, "unknown device .h2.: expected one of"),
    ],
)
def test_what_cannot_run_is_one_clear_error(dynamo, tmp_path, name, how, words):
    path = tmp_path / "broken.py"
    path.write_text(textwrap.dedent(BROKEN), encoding="utf-8")
    with pytest.raises(tm.MaterializeError, match=words):
        agree_target(f"{path}:{name}", **how)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("vllm:llama-3.1-8b", "only planned, never run"),
        ("langauge", "Did you mean 'language'"),
        ("no.such.module:build", "importing no.such.module raised ModuleNotFoundError"),
        ("not-a-module:build", "Write the module as Python imports it"),
    ],
)
def test_what_is_no_target_is_said(target, words):
    done = CliRunner().invoke(main, ["agree", target])
    assert done.exit_code == 1 and words in " ".join(done.output.split())


def test_a_module_is_a_target(dynamo, chain, monkeypatch):
    from torch_materialize.models.targets import load_user

    monkeypatch.chdir(chain.parent)
    built = load_user("chain:build", "")
    assert isinstance(built.model, nn.Module) and built.args[0].shape == (32, 64)
