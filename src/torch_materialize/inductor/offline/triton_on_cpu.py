"""Runs the Triton code that Inductor generates for a GPU that is not there, on a CPU.

Triton's own interpreter runs the kernels, torch everything else (matmuls, copies, attention).  So
what is seen is the code that ships: what it writes, where it rounds, what it computes again.

Where the interpreter has its own way, torch's is put: conversions between floating-point types
(the interpreter truncates where a GPU rounds) and elementary functions.  What is not seen: a GPU
contracts products and sums unless it is to round as eager, and adds up in another order.
"""

from __future__ import annotations

import contextlib
import itertools
import linecache
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
import triton.language as tl
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.runtime import triton_helpers, triton_heuristics
from triton.runtime import interpreter

from ...core.devices import Device
from ..lower.virtual_gpu import planned_device

__all__ = ["module_of"]

_FLOATS = {
    tl.float64: torch.float64,
    tl.float32: torch.float32,
    tl.float16: torch.float16,
    tl.bfloat16: torch.bfloat16,
    tl.float8e4nv: torch.float8_e4m3fn,
    tl.float8e5: torch.float8_e5m2,
}
# What CUDA's library calls otherwise than torch.
_LIBDEVICE = {
    "nearbyint": torch.round,
    "rint": torch.round,
    "fma": lambda a, b, c: torch.addcmul(c, a, b),
}
# A function of the interpreter's builder -> torch's.
_BUILT = {
    f"create_{name}": name.removeprefix("precise_")
    for name in (
        "exp", "exp2", "log", "log2", "sin", "cos", "sqrt", "precise_sqrt", "rsqrt", "erf",
        "floor", "ceil",
    )
}  # fmt: skip
_STREAM = re.compile(r"^.*_cuda_getCurrentRawStream as get_raw_stream.*$", re.MULTILINE)
_numbers = itertools.count()


def module_of(source: str, device: Device) -> Callable[[list[torch.Tensor]], Any]:
    """The function of a generated module, for inputs on a CPU."""

    def triton_kernel(_self: AsyncCompile, name: str, text: str, **_how: Any) -> _Kernel:
        return _kernel(name, text, device)

    scope: dict[str, Any] = {"__name__": "generated"}
    with mock.patch.object(AsyncCompile, "triton", triton_kernel):
        text = _STREAM.sub("get_raw_stream = lambda _index: 0", source)
        exec(compile(text, "<generated>", "exec"), scope)
    scope["empty_strided_cuda"] = _empty_strided

    def call(inputs: list[torch.Tensor]) -> Any:
        with _on_a_cpu(), np.errstate(all="ignore"):
            return scope["call"](inputs)

    return call


class _Kernel:
    """One generated kernel, to be run with the first of the configurations that Inductor tries."""

    def __init__(self, function: Any, inductor_meta: Mapping[str, Any], configs: Any) -> None:
        self._function, self._meta = function, inductor_meta
        names = function.arg_names
        # Of some blocks the size is part of the code.
        self._config = {n: v for n, v in configs[0].kwargs.items() if n in names}

    def run(self, *arguments: Any, stream: int) -> None:
        """What the generated wrapper calls."""
        names = (name for name in self._function.arg_names if name not in self._config)
        given = dict(zip(names, arguments, strict=True))
        grid = triton_heuristics.GridExpr.from_meta(self._meta, self._config)
        self._function[grid.eval_slow({**given, **self._config})](**given, **self._config)


def _kernel(name: str, text: str, device: Device) -> _Kernel:
    def chosen(
        _hints: Any,
        configs: Any,
        *_args: Any,
        inductor_meta: Mapping[str, Any],
        **_how: Any,
    ) -> Any:
        return lambda function: _Kernel(function, inductor_meta, configs)

    # Triton reads the source of a function from its file.
    file = f"<kernel {next(_numbers)}>"
    linecache.cache[file] = len(text), None, text.splitlines(keepends=True), file
    scope: dict[str, Any] = {"__name__": name, "__file__": file}
    with (
        planned_device(device),
        mock.patch.object(triton_heuristics, "cached_autotune", chosen),
        mock.patch.object(triton_helpers, "set_driver_to_gpu", lambda: None),
        mock.patch.object(triton_helpers, "libdevice", _Libdevice()),
    ):
        exec(compile(text, file, "exec"), scope)
    found: _Kernel = scope[name]
    return found


def _empty_strided(size: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty_strided(size, stride, dtype=dtype)


@contextlib.contextmanager
def _on_a_cpu() -> Iterator[None]:
    """Inside the block the interpreter computes as torch does, and no GPU is looked for."""
    gpu: dict[str, Any] = {
        "_DeviceGuard": lambda _index: contextlib.nullcontext(),
        "set_device": lambda _index: None,
    }
    built: dict[str, Any] = {name: _unary(getattr(torch, own)) for name, own in _BUILT.items()}
    builder = interpreter.InterpreterBuilder
    built["cast_impl"] = built["create_fp_to_fp"] = _cast(builder.cast_impl)
    built["create_atomic_rmw"] = _in_order(builder.create_atomic_rmw)
    with (
        mock.patch.multiple(torch.cuda, **gpu),
        mock.patch.multiple(builder, **built),
        mock.patch.object(interpreter.ReduceOps, "generic_reduce", _reduced),
        mock.patch.object(triton_helpers, "libdevice", _Libdevice()),
    ):
        yield


class _Libdevice:
    """CUDA's mathematical functions, which are torch's here."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        plain = name.removesuffix("_rn")  # rounded to the nearest, as torch does
        own = _LIBDEVICE.get(name) or getattr(torch, plain, None)
        function = own or getattr(torch.special, plain)

        def call(*arguments: Any) -> Any:
            like = next(x for x in arguments if isinstance(x, tl.tensor))
            values = (_to_torch(x.handle) if isinstance(x, tl.tensor) else x for x in arguments)
            result = function(*values)
            kind = tl.int1 if result.dtype == torch.bool else like.dtype.scalar
            shape = like.type.with_element_ty(kind) if like.type.is_block() else kind
            return tl.tensor(_of_torch(result, kind), shape)

        return call


def _unary(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    return lambda _self, x: _of_torch(function(_to_torch(x)), x.dtype.scalar)


def _cast(upstream: Callable[..., Any]) -> Callable[..., Any]:
    def cast(self: Any, source: Any, target: Any, *_rounding: Any) -> Any:
        before, after = source.dtype.scalar, target.scalar
        if after in _FLOATS:
            values = _to_torch(source) if before in _FLOATS else _whole(source)
            return _of_torch(values.to(_FLOATS[after]), after)
        if before in _FLOATS:
            source = interpreter.TensorHandle(_to_torch(source).double().numpy(), tl.float64)
        return upstream(self, source, target)

    return cast


def _whole(handle: Any) -> torch.Tensor:
    """Whole numbers and booleans; unsigned ones in fp64, since torch has few of them."""
    values = np.ascontiguousarray(handle.data)
    is_known = not np.issubdtype(values.dtype, np.unsignedinteger)
    return torch.from_numpy(values if is_known else values.astype(np.float64))


def _in_order(upstream: Callable[..., Any]) -> Callable[..., Any]:
    """What adds into memory reads its operands without their strides: a broadcast mask has some."""

    def atomic(self: Any, kind: Any, *operands: Any) -> Any:
        handles = (
            interpreter.TensorHandle(np.ascontiguousarray(one.data), one.dtype)
            if isinstance(one, interpreter.TensorHandle)
            else one
            for one in operands
        )
        return upstream(self, kind, *handles)

    return atomic


def _reduced(self: Any, values: Any) -> list[Any]:
    """A reduction by any function, neighbour with neighbour, whole arrays at a time.

    The interpreter's takes one element after the other, which is minutes for a row.
    """
    parts, axis = self.unravel(values, self.axis)
    types = [part.dtype for part in parts]
    arrays = [np.moveaxis(part.handle.data, axis, -1) for part in parts]
    while arrays[0].shape[-1] > 1:
        halves = (a[..., side::2] for side in (0, 1) for a in arrays)
        found = self.combine_fn.fn(*map(self.to_tensor, halves, types * 2))
        arrays = [part.handle.data for part in (found if isinstance(found, tuple) else (found,))]
    if self.axis is None:
        shape = (1,) * values[0].handle.data.ndim if self.keep_dims else ()
        arrays = [a.reshape(shape) for a in arrays]
    elif self.keep_dims:
        arrays = [np.moveaxis(a, -1, axis) for a in arrays]
    else:
        arrays = [a[..., 0] for a in arrays]
    return list(map(self.to_tensor, arrays, types))


def _to_torch(handle: Any) -> torch.Tensor:
    """The values; of a comparison booleans, whatever the interpreter says of their type."""
    kind = handle.dtype.scalar
    values = np.ascontiguousarray(handle.data)
    if kind in _FLOATS and np.issubdtype(values.dtype, np.unsignedinteger):
        # Numpy has no such type: the interpreter keeps its bits.
        signed = values.view(f"i{values.itemsize}")
        return torch.from_numpy(signed).view(_FLOATS[kind])
    return torch.from_numpy(values)


def _of_torch(values: torch.Tensor, kind: Any) -> Any:
    target = interpreter._get_np_dtype(kind)
    if kind in _FLOATS and not np.issubdtype(target, np.floating):
        bits = {1: torch.uint8, 2: torch.int16}[values.itemsize]
        return interpreter.TensorHandle(values.view(bits).numpy().view(target), kind)
    return interpreter.TensorHandle(values.numpy().astype(target, copy=False), kind)
