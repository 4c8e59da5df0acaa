"""The code that Inductor would generate under a policy, for a device that need not be there.

Real code generation: real Triton or C++ source, that nothing compiles.
"""

from __future__ import annotations

import ast
import contextlib
import re
from unittest import mock

import torch.utils._triton
from torch._inductor import config
from torch._inductor.graph import GraphLowering

from ...core.devices import Device
from ...core.policy import STOCK, Policy
from ...results.explanation import Code
from ..fx.decision import NO_CHANGE, rounds_casts
from ..fx.post_grad import PostGrad
from ..fx.rounding import emulation
from ..lower.cpp_casts import keep_casts
from ..lower.trial import lowered
from ..lower.virtual_gpu import planned_device
from ..plan.outcome import Outcome
from .dry_run import hooks_for

__all__ = ["code_of", "source_of", "split"]

_DEFINED = re.compile(
    r"^(?P<name>\w+) = async_compile\.\w+\([^\n]*?r?(?P<quote>'''|\"\"\")(?P<source>.*?)(?P=quote)",
    re.MULTILINE | re.DOTALL,
)
_CALL = re.compile(r"^\s+\w+(?:\.run)?\(")
_REUSED = re.compile(
    r"^\s+(?P<new>\w+) = (?:reinterpret_tensor\()?(?P<old>\w+)\b[^\n]*# reuse", re.MULTILINE
)
_TRITON = "@triton.jit"


def code_of(graph: PostGrad, policy: Policy, outcome: Outcome, device: Device) -> Code:
    """The kernels that ``policy`` has printed for ``graph``; ``outcome`` is its trial lowering.

    Raises:
        Exception: whatever Inductor raises while lowering or generating code.
    """
    source = source_of(graph, policy, outcome, device)
    return split(source, sum(1 for _ in outcome.graph.fused()))


def source_of(graph: PostGrad, policy: Policy, outcome: Outcome, device: Device) -> str:
    """The whole module that ``policy`` has generated for ``graph``: kernels and who calls them.

    Raises:
        Exception: as for :func:`code_of`.
    """
    found = outcome.found
    numerics = policy.numerics if policy.plans else ""
    governing = STOCK if found is not None or outcome.left_to_stock else policy
    with contextlib.ExitStack() as stack:
        stack.enter_context(planned_device(device))
        stack.enter_context(config.patch(emulation(policy)))
        stack.enter_context(hooks_for(governing))
        # Part of a kernel's cache key, and made from a driver that is not there.
        stack.enter_context(
            mock.patch.object(torch.utils._triton, "triton_hash_with_backend", lambda: "")
        )
        # With more threads a kernel goes to a pool that compiles it, as soon as that is up.
        stack.enter_context(config.patch(compile_threads=1))
        lowering = stack.enter_context(
            lowered(graph, found or NO_CHANGE, numerics, governing, GraphLowering)
        )
        if rounds_casts(found or NO_CHANGE, numerics):
            keep_casts(lowering)
        code, _ = lowering.codegen()
    return str(getattr(code, "value", code))


def split(source: str, fused: int) -> Code:
    """The kernels of a generated module, and which of them each of ``fused`` launches calls."""
    kernels = {}
    for found in _DEFINED.finditer(source):
        body = found["source"]
        start = body.find(_TRITON)
        kernels[found["name"]] = body[start:].strip() if start >= 0 else body.strip()
    after = max((found.end() for found in _DEFINED.finditer(source)), default=0)
    calls = [
        (name, arguments)
        for name, arguments in map(_call, source[after:].splitlines())
        if name in kernels
    ]
    if len(calls) != fused:
        return Code(kernels)
    launches, arguments = tuple(n for n, _ in calls), tuple(buffers for _, buffers in calls)
    reused = {found["new"]: found["old"] for found in _REUSED.finditer(source, after)}
    return Code(kernels, launches, arguments, reused)


def _call(line: str) -> tuple[str, tuple[str, ...]]:
    """The function that a line of the generated wrapper calls, and the buffers it is given."""
    if not _CALL.match(line):
        return "", ()
    try:
        call = ast.parse(line.strip(), mode="eval").body
    except SyntaxError:
        return "", ()
    if not isinstance(call, ast.Call):
        return "", ()
    called = call.func.value if isinstance(call.func, ast.Attribute) else call.func
    name = called.id if isinstance(called, ast.Name) else ""
    return name, tuple(filter(None, map(_buffer, call.args)))


def _buffer(argument: ast.expr) -> str:
    """The buffer that an argument is, or is a view of; "" for a size."""
    while isinstance(argument, ast.Call) and argument.args:
        argument = argument.args[0]
    return argument.id if isinstance(argument, ast.Name) else ""
