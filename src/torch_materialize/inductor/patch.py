"""Installs our wrappers: resolve all, check all, then set; undo gives back upstream's.

Four objects of upstream are replaced while something needs them:

``StorageBox.should_realize_on_reuse``
    decides about one reused tensor (:mod:`.reuse`).  Dormant for graphs without a policy.
``GraphLowering.__init__`` and ``GraphLowering.run``
    plan a graph that carries the policy `plan`, and lower it by that (:mod:`.planned`).
``compile_fx``
    adds the policy that is on in the calling thread to that one compile, forward and lazily
    compiled backward alike (:func:`_governed_compile_fx`).

A fifth, ``fx_codegen_and_compile``, is wrapped with the first policy that is not stock and stays
wrapped: it compiles a graph once more as stock where that fails under a policy (:mod:`.fallback`),
and a graph may be compiled long after the call that named its policy (a lazy backward, a model
with ``options()``).  Graphs of stock pass through it.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch._inductor import config

from .. import activation
from ..core.policy import Policy
from ..events import log, surprise
from ..versions import implementation
from . import seams
from .cache_key import (
    CONFIG_KEY,
    PolicyPass,
    StockPass,
    out_of_process,
    tell_out_of_process,
)
from .chained import passes_in
from .fallback import patch_fx_codegen_and_compile
from .narrow import hold_options
from .planned import patch_graph_lowering_init, patch_graph_lowering_run
from .reuse import patch_should_realize_on_reuse
from .rounding import emulation

__all__ = [
    "compile_options",
    "hold_for_lowering",
    "install",
    "installed",
    "remove",
    "remove_if_unneeded",
]

_lock = threading.RLock()


@dataclass(frozen=True)
class _Site:
    """One replaced attribute."""

    owner: Any
    name: str
    upstream: Any
    ours: Any


_sites: list[_Site] = []


def _wrappers() -> list[tuple[seams.Seam, Callable[[Any], Any]]]:
    return [
        (
            seams.by_path("torch._inductor.ir:StorageBox.should_realize_on_reuse"),
            patch_should_realize_on_reuse,
        ),
        (seams.by_path("torch._inductor.graph:GraphLowering.__init__"), patch_graph_lowering_init),
        (seams.by_path("torch._inductor.graph:GraphLowering.run"), patch_graph_lowering_run),
        (seams.by_path("torch._inductor.compile_fx:compile_fx"), _governed_compile_fx),
    ]


def installed() -> bool:
    """Whether our wrappers stand in upstream's places."""
    return bool(_sites)


def install() -> None:
    """Puts the wrappers in place; twice is once.

    Raises:
        UnsupportedTorchError: some object that a policy needs is missing or has changed, or
            somebody else has replaced it.  Nothing was changed then.
    """
    with _lock:
        if _sites:
            return
        seams.require("policy")
        prepared = [_prepared(seam, wrap) for seam, wrap in _wrappers()]
        for site in prepared:
            setattr(site.owner, site.name, site.ours)
        _sites.extend(prepared)
        _keep_way_back()


def _prepared(seam: seams.Seam, wrap: Callable[[Any], Any]) -> _Site:
    owner, name = seam.owner()
    upstream = getattr(owner, name)
    ours = wrap(upstream)
    setattr(ours, seams.OURS, seam.path)
    return _Site(owner, name, upstream, ours)


def _keep_way_back() -> None:
    """Sees to it that no compile of this process fails because of a policy; twice is once."""
    seam = seams.by_path("torch._inductor.compile_fx:fx_codegen_and_compile")
    with _lock:
        if getattr(seam.resolve(), seams.OURS, None) != seam.path:
            site = _prepared(seam, patch_fx_codegen_and_compile)
            setattr(site.owner, site.name, site.ours)


def remove() -> None:
    """Gives back exactly upstream's objects; does nothing when nothing is installed.

    Where somebody replaced one of ours meanwhile, theirs stays: taking it away would undo
    their work, and ours below it is dormant without a policy.
    """
    with _lock:
        while _sites:
            site = _sites.pop()
            if getattr(site.owner, site.name) is site.ours:
                setattr(site.owner, site.name, site.upstream)
            else:
                log.warning(
                    "%s.%s was replaced after torch-materialize wrapped it, so it is left as "
                    "it is; our wrapper below it passes every call on.",
                    getattr(site.owner, "__name__", site.owner),
                    site.name,
                )


def remove_if_unneeded() -> None:
    """Removes the wrappers unless a handle, a block or a graph still needs them."""
    with _lock:
        if not activation.needed():
            remove()


def hold_for_lowering(module: torch.fx.GraphModule) -> None:
    """Makes sure that the hook stands while a graph that carries a policy is lowered.

    A graph's policy may outlive the call that enabled it (lazily compiled backward), come
    without one (``options()``), or be undone by another thread meanwhile.  The hold ends when
    the graph has been lowered (:mod:`.planned`), or with ``disable()``.
    """
    with _lock:
        install()
        activation.hold(id(module))


def compile_options(policy: Policy) -> dict[str, Any]:
    """The ``torch.compile(options=...)`` that make one model follow ``policy``.

    A pass that is set in the current config is kept: it runs first.

    Raises:
        UnsupportedTorchError: this torch cannot be governed.
    """
    others = tuple(
        p for p in passes_in(getattr(config, CONFIG_KEY)) if p and not isinstance(p, PolicyPass)
    )
    if policy.is_stock:
        return {CONFIG_KEY: StockPass(others)}
    if not installed():
        seams.require("policy")
        _keep_way_back()
    return _governing(policy, others, {})


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
    others = passes_in(current)
    if any(isinstance(p, PolicyPass) for p in others):
        return patches
    policy = activation.current()
    if policy is None or policy.is_stock:
        return patches
    if out_of_process():
        tell_out_of_process(policy)
        return patches
    kept = tuple(p for p in others if p)
    return {**(patches or {}), **_governing(policy, kept, patches or {})}


def _governing(
    policy: Policy, others: tuple[Any, ...], patches: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings that put one compile under a policy; what ``patches`` sets is chained."""

    def current(name: str) -> Any:
        return patches.get(name, getattr(config, name))

    return {
        CONFIG_KEY: PolicyPass(policy, others),
        **emulation(policy),
        **hold_options(policy, policy.fingerprint(implementation()), current),
    }
