"""Carries a policy into a compile and into its cache keys, through a sanctioned seam.

``config.post_grad_custom_post_pass`` takes a :class:`CustomGraphPass` whose ``uuid()`` is part
of the FX-graph cache key and, through it, of the AOTAutograd cache key.  So the object that
says what decides is the object that is in the key: the two cannot disagree.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch._inductor import compile_fx, custom_graph_pass
from torch._inductor.custom_graph_pass import CustomGraphPass

from ..core.policy import STOCK, Policy
from ..events import once, surprise
from ..versions import implementation
from .reuse import MARK

__all__ = [
    "CONFIG_KEY",
    "PolicyPass",
    "StockPass",
    "out_of_process",
    "tell_out_of_process",
    "uuids",
]

#: The Inductor setting that carries the policy.
CONFIG_KEY = "post_grad_custom_post_pass"

# From 2.12 on, passes of this class are also told whether the graph is for inference.  Ours
# must be one, so that it can tell those that it chains.
_InferenceAware: Any = getattr(custom_graph_pass, "CustomInferenceAwareGraphPass", None)
_Base: Any = _InferenceAware or CustomGraphPass


def uuids(passes: Sequence[Any]) -> tuple[Any, ...] | None:
    """What chained passes put into the key; None (do not cache) where one wants no caching."""
    theirs = [p.uuid() if isinstance(p, CustomGraphPass) else None for p in passes]
    return tuple(theirs) if all(theirs) else None


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

        # What cannot be named in a key must not decide.
        self._fingerprint()
        patch.hold_for_lowering(graph.owning_module)
        graph.owning_module.meta[MARK] = self.policy

    def uuid(self) -> Any | None:
        """What enters the key; None (do not cache) where a chained pass wants no caching, or
        where there is no telling what decides.
        """
        if out_of_process():
            tell_out_of_process(self.policy)
            return None
        theirs = uuids(self.chained)
        if theirs is None:
            return None
        try:
            return (self._fingerprint(), *theirs)
        except Exception as error:  # noqa: BLE001 - a compile never fails because of us
            surprise("config.post_grad_custom_post_pass", error)
            return None

    def _fingerprint(self) -> str:
        return self.policy.fingerprint(implementation())

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
        theirs = uuids(self.chained)
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
