"""Makes Inductor lower and schedule for a GPU that is not there.

FakeTensorMode already makes ``cuda`` tensors without CUDA; what Inductor still takes from the
driver for is supplied here from :mod:`torch_materialize.core.devices`.  No kernel is
compiled and nothing runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch._subclasses.fake_impls
import torch._subclasses.fake_tensor
import torch.utils._triton
from torch._dynamo.convert_frame import compile_lock
from torch._inductor.runtime.hints import DeviceProperties
from torch._prims_common import suggest_memory_format
from torch._subclasses.fake_tensor import FakeTensorMode

from ...core.devices import Device

__all__ = ["planned_device", "torch_device"]


_CONVOLUTIONS = (
    torch.ops.aten.convolution.default,
    torch.ops.aten.convolution_backward.default,
)

# Who checks for Triton before a GPU's kernels are scheduled.  Only their code needs it.
_ASK_FOR_TRITON = ("torch._inductor.scheduler.has_triton",)


def torch_device(device: Device) -> torch.device:
    """The device that graphs planned for ``device`` name in their fake tensors."""
    return torch.device("cuda", 0) if device.is_gpu else torch.device("cpu")


@contextlib.contextmanager
def planned_device(device: Device) -> Iterator[None]:
    """Answers Inductor's questions about the GPU as ``device`` would, inside the block.

    Fake inputs must exist before the block is entered.  The answers are process-wide while
    the block is open, so no other thread compiles meanwhile: it waits, as for any other compile.
    What else it calls in ``torch.cuda`` answers for the planned device, too; only commands that
    compile nothing for real open such a block.  A CPU device changes nothing.
    """
    if not device.is_gpu:
        yield
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(compile_lock)
        for owner, name, value in _answers(device):
            stack.enter_context(mock.patch.object(owner, name, value))
        fakes = torch._subclasses.fake_impls.op_implementations_dict
        stack.enter_context(
            mock.patch.dict(fakes, {op: _contiguous_first(fakes[op]) for op in _CONVOLUTIONS})
        )
        for name in () if torch.utils._triton.has_triton_package() else _ASK_FOR_TRITON:
            stack.enter_context(mock.patch(name, lambda: True))
        # has_triton() remembers its answer, so it must be called anew on both sides.
        torch.utils._triton.has_triton.cache_clear()
        stack.callback(torch.utils._triton.has_triton.cache_clear)
        yield


def _answers(device: Device) -> list[tuple[Any, str, Any]]:
    properties = _driver_properties(device)
    inductor_properties = _inductor_properties(device)
    answers: list[tuple[Any, str, Any]] = [
        (DeviceProperties, "create", staticmethod(lambda _device: inductor_properties)),
        (torch.cuda, "is_available", lambda: True),
        (torch.cuda, "device_count", lambda: 1),
        (torch.cuda, "current_device", lambda: 0),
        (torch.cuda, "get_device_properties", lambda _device=None: properties),
        (torch.cuda, "get_device_capability", lambda _device=None: device.capability),
        (torch._subclasses.fake_tensor, "init_gpu_context", lambda *_: None),
        (torch.utils._triton, "triton_hash_with_backend", lambda: "planned"),
        (torch._C, "_select_conv_backend", _conv_backend),
        (torch._C, "_conv_determine_backend_memory_format", _conv_memory_format),
    ]
    if device.runtime == "hip":
        answers.append((torch.version, "hip", torch.version.hip or "7.0"))
    return answers


def _conv_backend(*args: Any, **kwargs: Any) -> Any:
    """cuDNN takes every convolution; a build without it would answer with a CPU kernel."""
    transposed = kwargs.get("transposed", args[6] if len(args) > 6 else False)
    backends = torch._C._ConvBackend
    return backends.CudnnTranspose if transposed else backends.Cudnn


def _conv_memory_format(
    input: torch.Tensor, weight: torch.Tensor, _backend: Any
) -> torch.memory_format:
    """cuDNN's choice: channels last as soon as one operand is; never for fp64.

    A build without cuDNN answers "contiguous", and channels-last graphs then pay a copy
    around each convolution that no GPU would pay.
    """
    if torch.float64 in (input.dtype, weight.dtype):
        return torch.contiguous_format
    suggested = (suggest_memory_format(tensor) for tensor in (input, weight))
    return next((f for f in suggested if f is not torch.contiguous_format), torch.contiguous_format)


def _contiguous_first(fake_convolution: Callable[..., Any]) -> Callable[..., Any]:
    """Makes the operands of 1-d convolutions contiguous before torch's fake implementation does.

    It does so where a build without CUDA tries to reach the device.
    """

    def contiguous(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.dim() != 3 or value.is_contiguous():
            return value
        return torch.empty(value.shape, dtype=value.dtype, device=value.device)

    def convolution(fake_mode: FakeTensorMode, func: Any, *args: Any, **kwargs: Any) -> Any:
        with fake_mode:
            operands = [contiguous(a) for a in args]
            named = {name: contiguous(a) for name, a in kwargs.items()}
        return fake_convolution(fake_mode, func, *operands, **named)

    return convolution


def _driver_properties(device: Device) -> SimpleNamespace:
    """What ``torch.cuda.get_device_properties`` would answer, as far as Inductor reads it."""
    major, minor = device.capability
    return SimpleNamespace(
        name=device.title,
        major=major,
        minor=minor,
        multi_processor_count=device.processors,
        warp_size=device.warp_size,
        regs_per_multiprocessor=device.registers_per_processor,
        max_threads_per_multi_processor=device.threads_per_processor,
        max_threads_per_block=device.threads_per_block,
        total_memory=device.memory_bytes,
        L2_cache_size=device.l2_bytes,
        shared_memory_per_block=48 << 10,
        shared_memory_per_block_optin=device.shared_bytes_per_block,
        gcnArchName=device.arch,
    )


def _inductor_properties(device: Device) -> Any:
    major, minor = device.capability
    return DeviceProperties(
        type=device.runtime,
        index=0,
        multi_processor_count=device.processors,
        cc=device.arch if device.runtime == "hip" else major * 10 + minor,
        major=major,
        regs_per_multiprocessor=device.registers_per_processor,
        max_threads_per_multi_processor=device.threads_per_processor,
        max_threads_per_block=device.threads_per_block,
        warp_size=device.warp_size,
    )
