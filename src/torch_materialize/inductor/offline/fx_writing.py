"""A captured graph as text, in torch's own format, with what that does not say in one comment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import torch

from ..fx.casts import held_names
from ..fx.post_grad import PostGrad
from ..fx.program_order import program_order
from .fx_text import HEADER

__all__ = ["text_of"]


def text_of(graph: PostGrad) -> str:
    """What :func:`.fx_reading.read_graphs` reads again: the same bytes under every policy.

    The modules of the model are not in it; its lines are.
    """
    shown = graph.module.print_readable(
        print_output=False, include_stride=True, include_device=True
    )
    order = program_order(graph.module.graph)
    noted = {
        "kind": graph.kind,
        "is_inference": graph.is_inference,
        "is_backward": graph.is_backward,
        "constants": dict(_constants(graph.module)),
        "held": sorted(held_names(graph)),
        "output": _output(graph.module),
        "program_order": [node.name for node in sorted(order, key=order.__getitem__)],
    }
    return f"{HEADER}{json.dumps(noted)}\n{shown}\n"


def _constants(module: torch.fx.GraphModule) -> Iterator[tuple[str, list[Any]]]:
    """The numbers of the constants that Inductor may write into its kernels."""
    for node in module.graph.find_nodes(op="get_attr"):
        value = getattr(module, str(node.target), None)
        is_fake = isinstance(value, torch._subclasses.FakeTensor)
        if isinstance(value, torch.Tensor) and not is_fake and value.numel() <= 8:
            yield str(node.target), value.flatten().tolist()


def _output(module: torch.fx.GraphModule) -> dict[str, Any]:
    """How Inductor is to lay out the results, as far as that is numbers."""
    (output,) = module.graph.find_nodes(op="output")
    found = {}
    for name in ("user_visible_output_idxs", "original_output_strides"):
        value = output.meta.get(name)
        if value is not None and all(_is_plain(one) for one in value):
            found[name] = list(value)
    return found


def _is_plain(value: Any) -> bool:
    parts = value if isinstance(value, tuple | list) else (value,)
    return all(isinstance(part, int) or part is None for part in parts)
