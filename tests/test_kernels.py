"""What a kernel takes besides its bytes, held against the code that is generated."""

from __future__ import annotations

import re

import pytest
import torch
from packaging.version import Version

from test_gathers import captured
from torch_materialize.core.cost import kind
from torch_materialize.core.devices import CPU, DEVICES
from torch_materialize.core.fits import FITS
from torch_materialize.core.limits import limits_for
from torch_materialize.core.policy import STOCK
from torch_materialize.inductor.offline.code import code_of
from torch_materialize.inductor.offline.dry_run import dry_run

pytestmark = pytest.mark.e2e

_NAMED = {"triton_poi": "pointwise", "triton_per": "persistent", "triton_red": "looped"}
# A loop of C++ over rows, one by one.
_ROWS = re.compile(r"for\(int64_t x0=[^;]*;[^;]*; x0\+=static_cast<int64_t>\(1L\)\)")
COLUMNS = 768
installed = Version(torch.__version__)


def rms_norm(x):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def layer_norm(x):
    return torch.nn.functional.layer_norm(x, (COLUMNS,))


def kernels_and_code(function, shape, device):
    """The kernels of a function's dry run, and their code."""
    graph = captured(function, shape, device=device)
    outcome = dry_run(graph, STOCK, DEVICES[device])
    return outcome.dag.kernels, code_of(graph, STOCK, outcome, DEVICES[device])


@pytest.mark.parametrize(
    ("function", "shape", "expected"),
    [
        (lambda x: x + 1, (1024, 512), "pointwise"),
        (rms_norm, (1024, 512), "persistent"),
        (rms_norm, (1024, 4096), "looped"),
        # As short, but down the columns.
        (lambda x: x.sum(0), (512, 4096), "looped"),
        (lambda x: x.sum(0), (32, 65536), "persistent"),
        pytest.param(
            # Head norms of a fused projection's part: rows as short, of which each lies apart.
            lambda x: rms_norm(x[:, :2048].view(-1, 16, 128)),
            (1024, 4096),
            "looped",
            marks=pytest.mark.skipif(
                installed >= Version("2.14"),
                reason="there rows that lie apart are looked at again when code is generated",
            ),
        ),
    ],
)
def test_kinds_are_those_of_the_generated_triton(function, shape, expected):
    pytest.importorskip("triton")
    kernels, code = kernels_and_code(function, shape, "h200")
    assert [kind(kernel) for kernel in kernels] == [_NAMED[name[:10]] for name in code.launches]
    assert expected in map(kind, kernels)


@pytest.mark.parametrize("function", [rms_norm, layer_norm])
def test_a_kernel_of_c_reads_as_often_as_it_loops_over_rows(function):
    """A layer norm three times, but on torch 2.11, where it sums once and has one loop."""
    (kernel,), code = kernels_and_code(function, (1024, COLUMNS), "cpu")
    (source,) = code.kernels.values()
    assert kernel.passes == len(_ROWS.findall(source))
    assert (kernel.passes > 1) == (function is layer_norm and installed >= Version("2.12"))


def test_a_looped_reduction_on_a_gpu_reads_its_input_twice():
    (kernel,), _ = kernels_and_code(rms_norm, (1024, 4096), "h200")
    assert kernel.passes == 2
    (kernel,), _ = kernels_and_code(rms_norm, (1024, 512), "h200")
    assert kernel.passes == 1


def test_reaching_an_element_is_work_on_a_gpu_alone():
    """An odd row is read in pieces, and places are told by dividing; loops of C++ are nested."""

    def padded(x):
        return torch.nn.functional.pad(x.exp(), (0, 1, 0, 1))

    def work(function, shape, device):
        (kernel,), _ = kernels_and_code(function, shape, device)
        return kernel.work

    def of_each(shape, device):
        """Of one element of a padded tensor."""
        count, height, width = 8 * 16, shape[-2] + 1, shape[-1] + 1
        return work(padded, shape, device) / (count * height * width)

    flat, rows, odd = (8 * 16 * 64 * 64,), (8, 16, 64, 64), (8, 16, 63, 63)
    assert work(torch.exp, flat, "h200") == work(torch.exp, rows, "h200")  # one loop
    each = [of_each(shape, "h200") for shape in (rows, odd)]
    assert each[0] > 1.3 * each[1]  # 65 columns, or 64 with an edge
    on_cpu = [of_each(shape, "cpu") for shape in (rows, odd)]
    assert on_cpu[0] == on_cpu[1] < each[1]


def test_quotients_and_roots_are_heavy_on_a_gpu():
    works = {}
    for device in ("cpu", "h200"):
        for function in (torch.neg, torch.sqrt, torch.reciprocal):
            (kernel,), _ = kernels_and_code(function, (1024, 512), device)
            works[device, function] = kernel.work / (1024 * 512)
    assert works["cpu", torch.neg] == works["cpu", torch.sqrt] == works["cpu", torch.reciprocal]
    gpu = works["h200", torch.neg]
    assert works["h200", torch.sqrt] == works["h200", torch.reciprocal] == gpu + 7


def test_a_launch_costs_what_the_device_could_have_moved():
    assert limits_for(DEVICES["h200"]).launch_bytes == pytest.approx(1.7e-6 * 4.8e12)
    assert limits_for(DEVICES["a100"]).launch_bytes < limits_for(DEVICES["h200"]).launch_bytes
    assert limits_for(None).launch_bytes == 4_000_000


def test_a_gpu_goes_by_bytes_as_far_as_its_rates_have_no_say():
    assert limits_for(DEVICES["h200"]).refusing_rates is FITS["h200"]
    assert limits_for(DEVICES["h200"]).rates is None
    assert limits_for(CPU).rates is FITS["cpu"] and limits_for(CPU).refusing_rates is None
