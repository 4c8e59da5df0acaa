"""Keeps narrowing casts alive until the plan has seen them, on torch 2.11 and 2.12.

There the joint-graph pass ``pointless_convert`` folds fp32 -> bf16 -> fp32 away before
lowering.  The narrow tensor in the middle (vLLM's bf16 residual) is exactly the one worth
materializing.  From 2.13 on upstream keeps it; then nothing here is used.

Two sanctioned seams do it: ``joint_custom_pre_pass`` hides such a cast behind an identity
operator of ours, and ``joint_custom_post_pass`` takes the operator out again.  Whatever the
plan then does not use is folded as upstream would have, so that without a plan the graph is
stock's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch._inductor import config

from ..core.policy import Policy
from ..events import surprise
from . import seams
from .cache_key import out_of_process
from .chained import ChainedPass, passes_in, uuids
from .operators import identity
from .post_grad import PostGrad, copy_graph
from .program_order import note

__all__ = [
    "HideCasts",
    "ShowCasts",
    "failed_pass",
    "fold",
    "folded",
    "folds_narrow_casts",
    "held_names",
    "hold_options",
]

_HELD = "torch_materialize_held_cast"
_CAST = torch.ops.prims.convert_element_type.default
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Digests of the pointless_convert that folds narrowing casts, too.
_FOLDING = frozenset({"eccba58e28deacd0"})


@functools.cache
def folds_narrow_casts() -> bool:
    """Whether the installed joint-graph pass folds a cast that narrows and then widens."""
    seam = seams.by_path("torch._inductor.fx_passes.joint_graph:pointless_convert")
    return seam.digest() in _FOLDING


def _hold() -> Any:
    """The identity operator that hides a cast from upstream's pattern."""
    return identity("hold")


class _CastPass(ChainedPass):
    """One of the two passes.

    ``failed`` is whether it did in the compile that ran it last.  Then that graph is left to
    stock, and as the keys of Inductor's caches are asked for after these passes ran, it is not
    cached either.
    """

    failed = False
    _seam = ""

    def __init__(
        self, fingerprint: str, chained: tuple[Any, ...] = (), for_good: bool = False
    ) -> None:
        super().__init__((fingerprint, for_good), chained)
        self.for_good = for_good

    def __call__(self, graph: torch.fx.Graph, **_told: bool) -> None:
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

    def __call__(self, graph: torch.fx.Graph, **_told: bool) -> None:
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
            self._hide(graph)

    @staticmethod
    def _will_be_shown() -> bool:
        """Whether this compile still has all of our passes: options can be mixed by hand."""
        ours = isinstance(config.joint_custom_post_pass, ShowCasts)
        return ours and not out_of_process()

    @staticmethod
    def _hide(graph: torch.fx.Graph) -> None:
        for node in graph.find_nodes(op="call_function", target=_CAST):
            wider = [user for user in node.users if _widens(node, user)]
            if wider and _narrows(node):
                with graph.inserting_after(node):
                    hidden = graph.call_function(_hold(), (node,))
                hidden.meta = dict(node.meta)
                for user in wider:
                    user.replace_input_with(node, hidden)


class ShowCasts(_CastPass):
    """Takes the identities out and marks the casts that would have been folded."""

    _seam = "config.joint_custom_post_pass"

    def __call__(self, graph: torch.fx.Graph, **_told: bool) -> None:
        """Leaves every held pair of casts in the graph, the widening one marked."""
        self._attempt(self._show, graph)
        self.run_chained(graph)

    def _show(self, graph: torch.fx.Graph) -> None:
        _release(graph, held=not self.for_good)
        graph.owning_module.recompile()


def failed_pass() -> str:
    """The setting whose pass of ours failed in the compile at hand, "" where none did."""
    for name in ("joint_custom_pre_pass", "joint_custom_post_pass"):
        passes = passes_in(getattr(config, name))
        if any(isinstance(one, _CastPass) and one.failed for one in passes):
            return name
    return ""


def _release(graph: torch.fx.Graph, held: bool) -> None:
    """Takes the identities out; the casts that widen again are marked as ``held`` or not."""
    for hidden in graph.find_nodes(op="call_function", target=_hold()):
        for user in hidden.users:
            user.meta[_HELD] = held
        hidden.replace_all_uses_with(hidden.args[0])
        graph.erase_node(hidden)


def _held_casts(graph: torch.fx.Graph) -> dict[torch.fx.Node, torch.fx.Node]:
    """Widening cast -> the narrowing cast before it, for the pairs that were held."""
    return {
        node: node.all_input_nodes[0]
        for node in graph.find_nodes(op="call_function", target=_CAST)
        if node.meta.get(_HELD) and node.all_input_nodes[0].target is _CAST
    }


def held_names(graph: PostGrad) -> frozenset[str]:
    """Names of the narrowing casts that are held back."""
    return frozenset(node.name for node in _held_casts(graph.module.graph).values())


def fold(module: torch.fx.GraphModule, keep: frozenset[str] = frozenset()) -> None:
    """Folds the held pairs, in place, except where the narrow value is named in ``keep``."""
    graph = module.graph
    _release(graph, held=True)  # what is still hidden where a pass of ours failed
    for widening, narrowing in _held_casts(graph).items():
        if narrowing.name in keep:
            continue
        source = narrowing.all_input_nodes[0]
        if source.meta["val"].dtype == widening.meta["val"].dtype:
            widening.replace_all_uses_with(source)
            graph.erase_node(widening)
        else:
            widening.replace_input_with(narrowing, source)
        if not narrowing.users:
            graph.erase_node(narrowing)
    module.recompile()


def folded(graph: PostGrad, keep: frozenset[str] = frozenset()) -> PostGrad:
    """A copy with the held pairs folded except those in ``keep``; the graph itself if none is.

    With nothing kept it is what stock would lower.
    """
    if not _held_casts(graph.module.graph):
        return graph
    module = copy_graph(graph.module)
    fold(module, keep)
    return replace(graph, module=module)


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


def _narrows(node: torch.fx.Node) -> bool:
    source, result = node.all_input_nodes[0].meta.get("val"), node.meta.get("val")
    return _floats(source, result) and result.dtype.itemsize < source.dtype.itemsize


def _widens(node: torch.fx.Node, user: torch.fx.Node) -> bool:
    if user.target is not _CAST:
        return False
    source, result = node.meta.get("val"), user.meta.get("val")
    return _floats(source, result) and result.dtype.itemsize > source.dtype.itemsize


def _floats(*values: Any) -> bool:
    return all(isinstance(v, torch.Tensor) and v.dtype in _FLOATS for v in values)
