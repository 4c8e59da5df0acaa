"""A backend for ``torch.compile`` that runs a planned GPU's code on the CPU at hand.

Graphs are traced, planned and generated code for as for the planned GPU, and called through
AOTAutograd's own wrappers, so that mutation, gradients and dynamic shapes are those of a compile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from functorch.compile import make_boxed_func
from torch._inductor import compile_fx as inductor_compile
from torch._inductor import config
from torch._subclasses.fake_tensor import unset_fake_temporarily

from ...core.devices import Device
from ...core.policy import Policy
from ..plan.outcome import Outcome
from .capture import planned_graph, traced_for
from .code import source_of
from .dry_run import dry_run
from .triton_on_cpu import module_of

__all__ = ["planned_backend"]


def planned_backend(
    policy: Policy,
    device: Device,
    seen: Callable[[Outcome, str], None] = lambda _outcome, _source: None,
) -> Callable[[torch.fx.GraphModule, Sequence[Any]], Any]:
    """A Dynamo backend for tensors on a CPU; :func:`.interpreting.interpret_triton` comes first.

    ``seen`` is called for each graph with its trial lowering and the module that is generated.
    Random numbers are eager's on a CPU.

    Raises:
        Exception: the backend raises what Inductor raises, and what code does that needs the GPU.
    """

    def compiled(module: torch.fx.GraphModule, inputs: Sequence[Any], **how: Any) -> Any:
        # Dynamo also hands over graphs without any operator (shape arithmetic between breaks).
        if not any(node.op == "call_function" for node in module.graph.nodes):
            return make_boxed_func(module.forward)
        with unset_fake_temporarily():
            graph = planned_graph(module, inputs, how, device)
            constants = list(_constants(module, graph.module))
            outcome = dry_run(graph, policy, device)
            source = source_of(graph, policy, outcome, device)
            seen(outcome, source)
            call = module_of(source, device)
        return make_boxed_func(lambda *args: call([*constants, *args]))

    def backend(module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
        with traced_for(policy, device), config.patch(fallback_random=True):
            return inductor_compile.compile_fx(module, inputs, inner_compile=compiled)

    return backend


def _constants(module: torch.fx.GraphModule, planned: torch.fx.GraphModule) -> Iterator[Any]:
    """The values of the inputs that were large constants of ``module``, in their order."""
    values = {f"constant_{n.name}": n.target for n in module.graph.find_nodes(op="get_attr")}
    for node in planned.graph.find_nodes(op="placeholder"):
        if node.target in values:
            value: Any = module
            for part in str(values[node.target]).split("."):
                value = getattr(value, part)
            yield value
