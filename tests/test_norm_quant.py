"""Fused add + RMSNorm + quantization: what moves on a planned H200, and that it is read right."""

from __future__ import annotations

import re

import pytest
import torch
from torch._inductor import config

import norm_quant as nq
import torch_materialize as tm
from tiers import but

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("dynamo")]

TORCH = tuple(map(int, torch.__version__.split(".")[:2]))
ONE_PASS = ["fp8_static", "fp8_token", "int8_token"]
GROUPED = ["fp8_group", "mxfp8"]
# Off where it is upstream's default, and absent from older torches.
NESTED = "triton.nested_reduction"


@pytest.fixture(scope="module")
def args():
    return nq.inputs(2048, 1024)


@pytest.mark.parametrize("name", but(ONE_PASS[:1], ONE_PASS))
def test_in_one_pass_the_least_is_moved(name, args):
    case = nq.CASES[name]
    for policy, found in nq.moved(case, args).items():
        assert (found.bytes, found.kernels) == (nq.least(case, args), 1), policy


@pytest.mark.skipif(NESTED not in config._config, reason="this torch has no nested reductions")
@pytest.mark.parametrize("name", but(GROUPED[:1], GROUPED))
@pytest.mark.parametrize("nested", [True, False])
def test_groups_are_one_kernel_where_reductions_nest(name, nested, args):
    case, unit = nq.CASES[name], args[0].nbytes
    with config.patch({NESTED: nested}):
        found = nq.moved(case, args)["plan"]
    # Apart, the second kernel reads both summands again, and of each row the mean that the first
    # wrote for it, in fp32.
    more = 0 if nested else 2 * unit + 2 * 4 * len(args[0])
    assert (found.bytes, found.kernels) == (nq.least(case, args) + more, 2 - nested)


@pytest.mark.full
def test_one_scale_for_a_tensor_takes_two_passes(args):
    """Nothing is scaled before all of it was seen, so that both summands are read again.

    With them the weight and the scale; and the mean and the maximum of each row go through memory.
    """
    x, _, weight = args
    found = nq.moved(nq.fp8_tensor, args)["plan"]
    more = 2 * x.nbytes + weight.nbytes + 4 + 2 * 2 * 4 * len(x)
    assert found.bytes == nq.least(nq.fp8_tensor, args) + more


@pytest.mark.skipif(TORCH < (2, 15), reason="nested reductions are off by default")
@pytest.mark.skipif(not torch.utils._triton.has_triton_package(), reason="code needs Triton")
@pytest.mark.parametrize("name", but(GROUPED[:1], [*GROUPED, "nvfp4"]))
def test_nested_reductions_read_what_their_code_reads(name, args):
    """The buffers of each launch, read from the trial lowering and from the generated code."""
    found = tm.explain(nq.CASES[name], *args, policies=("stock",), code=True).explanation
    (graph,) = found.graphs
    side = graph.sides["stock"]
    kernels = list(side.graph.fused())
    assert len(side.code.launches) == len(kernels)
    for place, kernel in enumerate(kernels):
        _, source = side.source_of(place)
        header = re.search(r"^def \w+\((.*)\)", source, re.MULTILINE)[1]
        pointers = re.findall(r"\w*_ptr\d+", header)
        buffers = side.code.arguments[place]
        assert len(pointers) == len(buffers)
        loaded = set(re.findall(r"tl\.load\((\w+)", source))
        stored = set(re.findall(r"tl\.store\((\w+)", source))
        by_pointer = dict(zip(pointers, buffers, strict=True))
        in_place = {name for pointer, name in by_pointer.items() if pointer in loaded & stored}
        assert {by_pointer[one] for one in loaded} - in_place == set(kernel.reads) - in_place
        assert {by_pointer[one] for one in stored} == set(kernel.writes)
        for buffer, size in {**kernel.reads, **kernel.writes}.items():
            assert size == side.graph.tensors[buffer].bytes


@torch.no_grad()
@pytest.mark.full
@pytest.mark.parametrize("name", list(nq.CASES))
def test_rounded_as_eager_the_codes_are_eagers(name):
    """Hardly any element may fall on the other side of a border: a sum is added up otherwise."""
    torch.manual_seed(0)
    args = nq.inputs(37, 256)
    got = torch.compile(nq.CASES[name], options=tm.options("plan:numerics=eager"))(*args)
    for mine, eagers in zip(got, nq.CASES[name](*args), strict=True):
        assert mine.dtype == eagers.dtype
        assert (mine.float() != eagers.float()).float().mean() < 0.01
