"""Carries a policy into a compile and into its cache keys, through a sanctioned seam.

``config.post_grad_custom_post_pass`` takes a :class:`CustomGraphPass` whose ``uuid()`` is part
of the FX-graph cache key and, through it, of the AOTAutograd cache key.  So the object that
says what decides is the object that is in the key: the two cannot disagree.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from pathlib import Path
from typing import Any

import torch
from torch._inductor import compile_fx, custom_graph_pass
from torch._inductor.custom_graph_pass import CustomGraphPass

from .._version import __version__
from ..core.policy import STOCK, Policy
from ..events import once, surprise
from .reuse import MARK

__all__ = [
    "CONFIG_KEY",
    "PolicyPass",
    "StockPass",
    "implementation",
    "out_of_process",
    "tell_out_of_process",
]

#: The Inductor setting that carries the policy.
CONFIG_KEY = "post_grad_custom_post_pass"

# From 2.12 on, passes of this class are also told whether the graph is for inference.  Ours
# must be one, so that it can tell those that it chains.
_InferenceAware: Any = getattr(custom_graph_pass, "CustomInferenceAwareGraphPass", None)
_Base: Any = _InferenceAware or CustomGraphPass


@functools.cache
def implementation() -> str:
    """Version and source digest of the code that decides."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for source in sorted([*package.glob("core/*.py"), *package.glob("inductor/*.py")]):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:16]}"


class PolicyPass(_Base):
    """Marks a post-grad graph with its policy, after the passes that others had set.

    Compared, copied and printed by value: Inductor deep-copies and hashes its settings.
    """

    def __init__(self, policy: Policy, chained: tuple[Any, ...] = ()) -> None:
        self.policy = policy
        self.chained = chained

    def __call__(self, graph: torch.fx.Graph, is_inference: bool = False) -> None:
        """Runs the chained passes, then leaves the policy on the graph's module."""
        for other in self.chained:
            if _InferenceAware is not None and isinstance(other, _InferenceAware):
                other(graph, is_inference=is_inference)
            else:
                other(graph)
        try:
            self._mark(graph)
        except Exception as error:  # noqa: BLE001 - a compile never fails because of us
            surprise("config.post_grad_custom_post_pass", error)

    def _mark(self, graph: torch.fx.Graph) -> None:
        # A graph may be lowered where the hook is not installed: a backward that is compiled
        # after undo(), a model compiled with options() alone.
        from . import patch

        patch.hold_for_lowering(graph.owning_module)
        graph.owning_module.meta[MARK] = self.policy

    def uuid(self) -> Any | None:
        """What enters the key; None (do not cache) where a chained pass wants no caching."""
        if out_of_process():
            tell_out_of_process(self.policy)
            return None
        theirs = self._chained_uuids()
        if theirs is None:
            return None
        return (self.policy.fingerprint(implementation()), *theirs)

    def _chained_uuids(self) -> tuple[Any, ...] | None:
        theirs = [p.uuid() if isinstance(p, CustomGraphPass) else None for p in self.chained]
        return tuple(theirs) if all(theirs) else None

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, PolicyPass)
            and type(self) is type(other)
            and self.policy == other.policy
            and self.chained == other.chained
        )

    def __hash__(self) -> int:
        return hash((self.policy, self.chained))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.policy}, chained={self.chained!r})"


class StockPass(PolicyPass):
    """Says "stock" explicitly, so that ``options("stock")`` wins over an enabled policy.

    It is false in a boolean context unless others' passes are chained, which is how Inductor
    asks whether a pass is set; and its uuid is theirs.  So it leaves every key as it was and
    what it governs is stock's to the last byte.
    """

    def __init__(self, chained: tuple[Any, ...] = ()) -> None:
        super().__init__(STOCK, chained)

    def __bool__(self) -> bool:
        return bool(self.chained)

    def _mark(self, graph: torch.fx.Graph) -> None:
        """Leaves no mark: without one, Inductor decides."""

    def uuid(self) -> Any | None:
        """Exactly what the chained passes would have put into the key.

        Without any, Inductor only asks whether there is a uuid, and then leaves a pass that
        is false out of the key.
        """
        if not self.chained:
            return str(self.policy)
        theirs = self._chained_uuids()
        return theirs[0] if theirs and len(theirs) == 1 else theirs


def out_of_process() -> bool:
    """Whether Inductor lowers graphs in another process, which settings do not all reach.

    ``TORCHINDUCTOR_FX_COMPILE_MODE`` sends a graph with the portable part of the config;
    custom passes are not portable, so the policy would be in the key and not in the code.
    """
    mode = getattr(compile_fx, "fx_compile_mode", None)
    return getattr(mode, "name", "NORMAL") != "NORMAL"


def tell_out_of_process(policy: Policy) -> None:
    """Says once that the policy stays behind, and what to do about it."""
    once(
        "out-of-process",
        logging.WARNING,
        "policy %s does not reach Inductor's out-of-process compile (%s): graphs compile as "
        "stock and are not cached. Unset TORCHINDUCTOR_FX_COMPILE_MODE to use the policy.",
        policy,
        getattr(compile_fx, "fx_compile_mode", None),
    )
