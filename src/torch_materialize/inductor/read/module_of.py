"""Which module of the model an FX node belongs to."""

from __future__ import annotations

import re

import torch

__all__ = ["module_of"]

# How Dynamo names what a module was reached from: the local variable of some frame, of ours too.
_LOCAL = re.compile(r"^L\['\w+'\](\[\d+\])?\.?")


def module_of(node: torch.fx.Node) -> tuple[str, str]:
    """The module whose forward made a node, or whose backward it belongs to: path and class.

    ``L['self'].layers.3.mlp`` is ``layers.3.mlp``; both are "" where that is unknown.
    """
    stack = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack") or {}
    if not stack:
        return "", ""
    path, kind = list(stack.values())[-1]
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))
    return _LOCAL.sub("", path), name.rpartition(".")[2]
