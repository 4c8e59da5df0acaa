"""A post-grad graph with what lowering needs beside it, and copies of it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch

from .policy_mark import POLICY_KEY

__all__ = ["INLINED_CONSTANT", "PostGrad", "copy_graph", "fake_mode_of", "ungoverned_copy"]


#: Constants of at most this many elements are written into the kernels by Inductor, which needs
#: their values; larger ones are only read, like inputs, and so are those without values.
INLINED_CONSTANT = 8


@dataclass(frozen=True)
class PostGrad:
    """A post-grad graph with what lowering needs beside it.

    ``inputs`` are fake tensors on the (planned) device, in placeholder order.  Of the body of a
    higher-order operator (:mod:`.bodies`) ``caller`` is that operator, and ``calls`` how many calls
    of it the whole graph has.  ``handover`` is there while a compile waits for the decision about
    just this graph (:mod:`..lower.handover`).
    """

    module: torch.fx.GraphModule
    inputs: tuple[Any, ...]
    fake_mode: Any
    is_inference: bool = True
    is_backward: bool = False
    cpp_wrapper: bool = False
    aot_mode: bool = False
    caller: str = ""
    calls: int = 1
    handover: Any = field(default=None, compare=False, repr=False)

    @property
    def kind(self) -> str:
        """``inference``, ``forward`` or ``backward``."""
        if self.is_inference:
            return "inference"
        return "backward" if self.is_backward else "forward"

    @property
    def is_body(self) -> bool:
        """Whether it is the body of a higher-order operator."""
        return bool(self.caller)

    @property
    def nodes(self) -> int:
        """Number of FX nodes."""
        return len(self.module.graph.nodes)

    @property
    def described(self) -> str:
        """What a log calls it: its nodes, and of a body whose it is."""
        of = f"the body of {self.caller}, called {self.calls} times, of " if self.is_body else ""
        return f"{of}{self.nodes} nodes"


def copy_graph(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """A copy with graphs of its own, subgraphs included; weights and constants are shared.

    A deep copy would clone those, which is dear, and fails where a fake mode is active.
    """
    copied = torch.fx.GraphModule(module, copy.deepcopy(module.graph))
    copied.meta = dict(module.meta)
    if hasattr(module, "shape_env"):
        copied.shape_env = module.shape_env
    for name, child in module.named_children():
        if isinstance(child, torch.fx.GraphModule):
            setattr(copied, name, copy_graph(child))
    return copied


def ungoverned_copy(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """A :func:`copy_graph` without a policy: what is done to it is not planned again."""
    copied = copy_graph(module)
    for child in copied.modules():
        getattr(child, "meta", {}).pop(POLICY_KEY, None)
    return copied


def fake_mode_of(graph: torch.fx.Graph) -> Any:
    """The fake mode that the values of a graph belong to, its inputs first; None without tensors.

    A graph may have no input (DeBERTa's table of relative positions, after a graph break).
    """
    values = (node.meta.get("val") for node in graph.nodes)
    fakes = (x for x in values if isinstance(x, torch._subclasses.FakeTensor))
    return next((fake.fake_mode for fake in fakes), None)
