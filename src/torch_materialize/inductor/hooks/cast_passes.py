"""The two graph passes that keep narrowing casts alive until the plan has seen them.

``joint_custom_pre_pass`` notes the program's order and, on torch 2.11 and 2.12, hides such a cast
behind an identity operator of ours (:mod:`..fx.casts`); ``joint_custom_post_pass`` takes the
operator out again.  From 2.13 on upstream keeps these casts; then only the order is noted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._inductor import config

from ...core.policy import Policy
from ...events import surprise
from ..fx.casts import folds_narrow_casts, hide, release
from ..fx.program_order import note
from .chained import ChainedPass, passes_in, uuids
from .process import out_of_process

__all__ = ["HideCasts", "ShowCasts", "failed_pass", "hold_options", "rounds_as_eager"]


class _CastPass(ChainedPass):
    """One of the two passes.

    ``failed`` is whether it did in the compile that ran it last.  Then that graph is left to
    stock, and as the keys of Inductor's caches are computed after these passes ran, it is not
    cached either.
    """

    failed = False
    _seam = ""

    def __init__(
        self, fingerprint: str, chained: tuple[Any, ...] = (), for_good: bool = False
    ) -> None:
        super().__init__((fingerprint, for_good), chained)
        self.for_good = for_good

    def __call__(self, graph: torch.fx.Graph, **_flags: bool) -> None:
        raise NotImplementedError

    def uuid(self) -> Any | None:
        """The policy's fingerprint and the chained passes' own; None: do not cache."""
        theirs = uuids(self.chained)
        if theirs is None or self.failed:
            return None
        return (type(self).__name__, self.what[0], *theirs)

    def _attempt(self, act: Callable[[torch.fx.Graph], None], graph: torch.fx.Graph) -> None:
        self.failed = False
        try:
            act(graph)
        except Exception as error:  # noqa: BLE001 - a compile never fails because of us
            self.failed = True
            surprise(self._seam, error)


class HideCasts(_CastPass):
    """Notes the order of the program, before Inductor changes it; and where upstream would fold
    narrowing casts, puts our identity between them and the casts that widen them again.
    """

    _seam = "config.joint_custom_pre_pass"

    def __call__(self, graph: torch.fx.Graph, **_flags: bool) -> None:
        """Hides casts in inference graphs only, unless they stay for good: in training the
        partitioner would see other tensors to save.
        """
        self.run_chained(graph)
        self._attempt(self._note_and_hide, graph)

    def _note_and_hide(self, graph: torch.fx.Graph) -> None:
        note(graph)
        if (
            folds_narrow_casts()
            and self._will_be_shown()
            and (self.for_good or not _is_joint(graph))
        ):
            hide(graph)

    @staticmethod
    def _will_be_shown() -> bool:
        """Whether this compile still has all of our passes: options can be mixed by hand."""
        ours = isinstance(config.joint_custom_post_pass, ShowCasts)
        return ours and not out_of_process()


class ShowCasts(_CastPass):
    """Takes the identities out and marks the casts that would have been folded."""

    _seam = "config.joint_custom_post_pass"

    def __call__(self, graph: torch.fx.Graph, **_flags: bool) -> None:
        """Leaves every held pair of casts in the graph, the widening one marked."""
        self._attempt(self._show, graph)
        self.run_chained(graph)

    def _show(self, graph: torch.fx.Graph) -> None:
        release(graph, held=not self.for_good)
        graph.owning_module.recompile()


def failed_pass() -> str:
    """The setting whose pass of ours failed in the compile at hand, "" where none did."""
    for name in ("joint_custom_pre_pass", "joint_custom_post_pass"):
        passes = passes_in(getattr(config, name))
        if any(isinstance(one, _CastPass) and one.failed for one in passes):
            return name
    return ""


def rounds_as_eager() -> bool:
    """Whether the compile at hand is under ``numerics="eager"``, which holds casts for good."""
    passes = passes_in(config.joint_custom_pre_pass)
    return any(isinstance(one, HideCasts) and one.for_good for one in passes)


def hold_options(policy: Policy, fingerprint: str, current: Callable[[str], Any]) -> dict[str, Any]:
    """Inductor settings that note the program's order and hold narrowing casts back.

    Held where upstream folds them, until the plan has chosen, for good under
    ``numerics="eager"``, and not at all where stock's result is to stay as it is.  ``current``
    gives the value that a setting has now, to be chained.
    """
    if not policy.plans or policy.numerics == "stock":
        return {}
    kinds: dict[str, type[_CastPass]] = {"joint_custom_pre_pass": HideCasts}
    if folds_narrow_casts():
        kinds["joint_custom_post_pass"] = ShowCasts
    for_good = policy.numerics == "eager"

    return {
        name: kind(fingerprint, tuple(passes_in(current(name))), for_good)
        for name, kind in kinds.items()
    }


def _is_joint(graph: torch.fx.Graph) -> bool:
    names = (node.name for node in graph.find_nodes(op="placeholder"))
    return any(name.startswith("tangents") for name in names)
