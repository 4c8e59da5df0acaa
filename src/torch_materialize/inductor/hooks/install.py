"""What wraps which object of upstream, and the options that put a compile under a policy.

Five objects of upstream are replaced while something needs them:

``StorageBox.should_realize_on_reuse``
    decides about one reused tensor (:mod:`.reuse`).  Dormant for graphs without a policy.
``GraphLowering.__init__`` and ``GraphLowering.run``
    plan a graph that carries the policy `plan`, and lower it by that (:mod:`.graph_lowering`).
``choose_saved_values_set``
    says what the forward of a training step saves (:mod:`..partition.upstreams`).  Dormant except
    in a compile whose options have our partitioner (:mod:`.partitioner`).
``compile_fx``
    adds the policy that is on in the calling thread to that one compile, forward and lazily
    compiled backward alike (:func:`_governed_compile_fx`).

A sixth, ``fx_codegen_and_compile``, is wrapped with the first policy that is not stock and stays
wrapped: it compiles a graph once more as stock where that fails under a policy (:mod:`.fallback`),
and a graph may be compiled long after the call that named its policy (a lazy backward, a model
with ``options()``).  Graphs of stock pass through it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch._inductor import config

from ... import activation
from ...core.policy import Policy
from ...events import surprise
from ...versions import implementation
from ..contract import seams
from ..fx.rounding import emulation
from ..partition.upstreams import patch_choose_saved_values_set
from . import sites
from .cast_passes import hold_options
from .chained import passes_in
from .fallback import patch_fx_codegen_and_compile
from .graph_lowering import patch_graph_lowering_init, patch_graph_lowering_run
from .modes import mode_options
from .partitioner import partitioner_options
from .policy_pass import CONFIG_KEY, PolicyPass, StockPass
from .process import out_of_process, warn_out_of_process
from .reuse import patch_should_realize_on_reuse
from .sites import install, installed, remove, remove_if_unneeded

__all__ = ["compile_options", "install", "installed", "remove", "remove_if_unneeded"]


def compile_options(policy: Policy, mode: str | None = None) -> dict[str, Any]:
    """The ``torch.compile(options=...)`` that make one model follow ``policy`` under a mode.

    A pass that is set by the mode or in the current config is kept: it runs first.

    Raises:
        UnknownPolicyError: this torch has no such mode.
        UnsupportedTorchError: this torch cannot be governed.
    """
    modes = mode_options(mode)
    current = modes.get(CONFIG_KEY, getattr(config, CONFIG_KEY))
    other_passes = tuple(p for p in passes_in(current) if p and not isinstance(p, PolicyPass))
    if policy.is_stock:
        return {**modes, CONFIG_KEY: StockPass(other_passes)}
    if not installed():
        seams.require("policy")
        sites.keep_way_back()
    return {**modes, **_governing(policy, other_passes, modes)}


def _governed_compile_fx(upstream: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the active policy to one compile by way of its ``config_patches``.

    Upstream applies ``config_patches`` to the forward and, later, to the lazily compiled
    backward, in whatever thread that happens: so one compile sees one policy throughout.
    """

    signature = inspect.signature(upstream)

    @functools.wraps(upstream)
    def compile_fx(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
            bound.arguments["config_patches"] = _with_policy(bound.arguments.get("config_patches"))
            args, kwargs, again = bound.args, bound.kwargs, bool(bound.arguments["config_patches"])
        except Exception as error:  # noqa: BLE001 - a compile never fails because of us
            surprise("torch._inductor.compile_fx:compile_fx", error)
            again = bool(kwargs.get("config_patches"))
        # Given settings, upstream puts them on and calls itself without, and so this wrapper.  A
        # line for either, since no line may stand twice in the stack of a compile
        # (`config.check_stack_no_cycles_TESTING_ONLY`).
        if again:
            return upstream(*args, **kwargs)
        return upstream(*args, **kwargs)

    return compile_fx


def _with_policy(patches: dict[str, Any] | None) -> dict[str, Any] | None:
    """``patches`` with the active policy's pass added, unless the compile names its own."""
    current = (patches or {}).get(CONFIG_KEY, getattr(config, CONFIG_KEY))
    other_passes = passes_in(current)
    if any(isinstance(p, PolicyPass) for p in other_passes):
        return patches
    policy = activation.current()
    if policy is None or policy.is_stock:
        return patches
    if out_of_process():
        warn_out_of_process(policy)
        return patches
    kept = tuple(p for p in other_passes if p)
    return {**(patches or {}), **_governing(policy, kept, patches or {})}


def _governing(
    policy: Policy, other_passes: tuple[Any, ...], patches: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings that put one compile under a policy; what ``patches`` sets is chained."""

    def current(name: str) -> Any:
        return patches.get(name, getattr(config, name))

    fingerprint = policy.fingerprint(implementation())
    return {
        CONFIG_KEY: PolicyPass(policy, other_passes),
        **emulation(policy),
        **hold_options(policy, fingerprint, current),
        **partitioner_options(policy, fingerprint, current),
    }


sites.provide(
    "torch._inductor.ir:StorageBox.should_realize_on_reuse", patch_should_realize_on_reuse
)
sites.provide("torch._inductor.graph:GraphLowering.__init__", patch_graph_lowering_init)
sites.provide("torch._inductor.graph:GraphLowering.run", patch_graph_lowering_run)
sites.provide(
    "torch._functorch.partitioners:choose_saved_values_set", patch_choose_saved_values_set
)
sites.provide("torch._inductor.compile_fx:compile_fx", _governed_compile_fx)
sites.provide(
    "torch._inductor.compile_fx:fx_codegen_and_compile", patch_fx_codegen_and_compile, for_good=True
)
