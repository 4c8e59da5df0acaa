"""Carries a policy into a compile and into its cache keys, through a sanctioned seam.

``config.post_grad_custom_post_pass`` takes a :class:`CustomGraphPass` whose ``uuid()`` is part
of the FX-graph cache key and, through it, of the AOTAutograd cache key.  So the object that
says what decides is the object that is in the key: the two cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ... import activation
from ...core.policy import STOCK, Policy
from ...events import surprise
from ...versions import implementation
from ..fx.decision import give_back
from ..fx.eager_kernels import round_made
from ..fx.eager_steps import round_within
from ..fx.policy_mark import POLICY_KEY
from ..plan.plan_files import plans_for
from ..plan.process_group import group_key
from ..read import at_hand
from .chained import ChainedPass, uuids
from .process import out_of_process, warn_out_of_process
from .sites import hold_for_lowering

__all__ = ["CONFIG_KEY", "PolicyPass", "StockPass"]

#: The Inductor setting that carries the policy.
CONFIG_KEY = "post_grad_custom_post_pass"


class PolicyPass(ChainedPass):
    """Marks a post-grad graph with its policy, after the passes that a program had set."""

    def __init__(self, policy: Policy, chained: tuple[Any, ...] = ()) -> None:
        super().__init__((policy,), chained)
        self.policy = policy

    def __call__(self, graph: torch.fx.Graph, is_inference: bool = False) -> None:
        """Runs the chained passes, then leaves the policy on the graph's module.

        A graph that is given up to stock (:mod:`.fallback`) gets none.
        """
        # A program's own passes see what the program wrote, and may make more of it.
        self._round(graph, round_within)
        self.run_chained(graph, is_inference=is_inference)
        self._round(graph, round_made)
        try:
            if activation.is_given_up():
                give_back(graph.owning_module)
            else:
                self._mark(graph)
        except Exception as error:  # noqa: BLE001 - a compile never fails because of us
            surprise("config.post_grad_custom_post_pass", error)
            give_back(graph.owning_module)

    def _round(self, graph: torch.fx.Graph, how: Callable[[torch.fx.Graph], int]) -> None:
        if self.policy.numerics != "eager" or activation.is_given_up():
            return
        try:
            if how(graph):
                graph.owning_module.recompile()
        except Exception as error:  # noqa: BLE001 - a compile never fails because of us
            surprise("config.post_grad_custom_post_pass", error)

    def _mark(self, graph: torch.fx.Graph) -> None:
        # What cannot be named in a key must not decide.
        self._fingerprint()
        # A graph may be lowered where the hook is not installed: a backward that is compiled
        # after undo(), a model compiled with options() alone.
        hold_for_lowering(graph.owning_module)
        graph.owning_module.meta[POLICY_KEY] = self.policy

    def uuid(self) -> Any | None:
        """What enters the key; None (do not cache) where a chained pass wants no caching, or
        where it is unknown what decides.
        """
        if out_of_process():
            warn_out_of_process(self.policy)
            return None
        theirs = uuids(self.chained)
        if theirs is None:
            return None
        try:
            # What `tune` measured belongs to this process group.
            ours = group_key() if self.policy.name == "tune" else ""
            return (self._fingerprint(), *filter(None, [ours]), *theirs)
        except Exception as error:  # noqa: BLE001 - a compile never fails because of us
            surprise("config.post_grad_custom_post_pass", error)
            return None

    def _fingerprint(self) -> str:
        # The CPU's rates decide, and Inductor's keys do not know of which CPU they are; and what
        # plan files say decides, wherever they lie.
        plans = plans_for(self.policy)
        says = f" {plans.digest}" if plans is not None and plans.files else ""
        return self.policy.fingerprint(f"{implementation()} {at_hand.decides()}{says}")


class StockPass(PolicyPass):
    """Says "stock" explicitly, so that ``options("stock")`` wins over an enabled policy.

    It is false in a boolean context unless passes of a program are chained, which is how Inductor
    checks whether a pass is set; and its uuid is theirs.  So it leaves every key as it was and
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

        Without any, Inductor only checks whether there is a uuid, and then leaves a pass that
        is false out of the key.
        """
        if not self.chained:
            return str(self.policy)
        theirs = uuids(self.chained)
        return theirs[0] if theirs and len(theirs) == 1 else theirs
