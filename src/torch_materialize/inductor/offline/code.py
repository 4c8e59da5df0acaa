"""The code that Inductor would generate under a policy, for a device that need not be there.

Real code generation: real Triton or C++ source, that nothing compiles.
"""

from __future__ import annotations

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

__all__ = ["code_of", "split"]

_DEFINED = re.compile(
    r"^(?P<name>\w+) = async_compile\.\w+\([^\n]*?r?(?P<quote>'''|\"\"\")(?P<source>.*?)(?P=quote)",
    re.MULTILINE | re.DOTALL,
)
_TRITON = "@triton.jit"


def code_of(graph: PostGrad, policy: Policy, outcome: Outcome, device: Device) -> Code:
    """The kernels that ``policy`` has printed for ``graph``; ``outcome`` is its trial lowering.

    Raises:
        Exception: whatever Inductor raises while lowering or generating code.
    """
    found = outcome.found
    numerics = policy.numerics if policy.plans else ""
    governing = policy if found is None else STOCK
    with contextlib.ExitStack() as stack:
        stack.enter_context(planned_device(device))
        stack.enter_context(config.patch(emulation(policy)))
        stack.enter_context(hooks_for(governing))
        # Part of a kernel's cache key, and made from a driver that is not there.
        stack.enter_context(
            mock.patch.object(torch.utils._triton, "triton_hash_with_backend", lambda: "")
        )
        lowering = stack.enter_context(
            lowered(graph, found or NO_CHANGE, numerics, governing, GraphLowering)
        )
        if rounds_casts(found or NO_CHANGE, numerics):
            keep_casts(lowering)
        code, _ = lowering.codegen()
    return split(str(getattr(code, "value", code)), sum(1 for _ in outcome.graph.fused()))


def split(source: str, fused: int) -> Code:
    """The kernels of a generated module, and which of them each of ``fused`` launches calls."""
    kernels = {}
    for found in _DEFINED.finditer(source):
        body = found["source"]
        start = body.find(_TRITON)
        kernels[found["name"]] = body[start:].strip() if start >= 0 else body.strip()
    called = re.compile(r"^\s+(?P<name>\w+)(?:\.run)?\(", re.MULTILINE)
    after = max((found.end() for found in _DEFINED.finditer(source)), default=0)
    launches = tuple(c["name"] for c in called.finditer(source, after) if c["name"] in kernels)
    return Code(kernels, launches if len(launches) == fused else ())
