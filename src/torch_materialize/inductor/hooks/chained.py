"""Graph passes of ours in Inductor's settings: by value, after the passes of a program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch._inductor import custom_graph_pass
from torch._inductor.custom_graph_pass import CustomGraphPass

__all__ = ["ChainedPass", "passes_in", "uuids"]

# From 2.12 on, passes of this class also get whether the graph is for inference.  Ours
# must be of it, so that they can hand it on to those that they chain.
_InferenceAware: Any = getattr(custom_graph_pass, "CustomInferenceAwareGraphPass", None)
_Base: Any = _InferenceAware or CustomGraphPass


def passes_in(value: Any) -> Sequence[Any]:
    """The passes in a setting: one, several (torch 2.13 and later) or none."""
    if isinstance(value, list | tuple):
        return value
    return () if value is None else (value,)


def uuids(passes: Sequence[Any]) -> tuple[Any, ...] | None:
    """What chained passes put into the key; None (do not cache) where one wants no caching."""
    theirs = [p.uuid() if isinstance(p, CustomGraphPass) else None for p in passes]
    return tuple(theirs) if all(theirs) else None


class ChainedPass(_Base):
    """A pass compared, copied and printed by value: Inductor deep-copies and hashes its settings.

    Attributes:
        what: what makes it act as it does, beside its class.
        chained: the passes that stood in its setting, which it runs.
    """

    def __init__(self, what: tuple[Any, ...], chained: tuple[Any, ...]) -> None:
        self.what = what
        self.chained = chained

    def run_chained(self, graph: torch.fx.Graph, **more: bool) -> None:
        """Runs the program's passes; ``more`` goes to those that take whether it is inference."""
        for other in self.chained:
            aware = _InferenceAware is not None and isinstance(other, _InferenceAware)
            other(graph, **(more if aware else {}))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ChainedPass)
            and type(self) is type(other)
            and (self.what, self.chained) == (other.what, other.chained)
        )

    def __hash__(self) -> int:
        return hash((type(self), self.what, self.chained))

    def __repr__(self) -> str:
        what = ", ".join(map(str, self.what))
        return f"{type(self).__name__}({what}, chained={self.chained!r})"
