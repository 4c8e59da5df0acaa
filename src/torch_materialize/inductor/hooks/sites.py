"""The objects of upstream that we replace while something needs that, and the way back.

Who wraps an object registers it with :func:`provide` (:mod:`.install`); nothing here knows what a
wrapper does.  Resolve all, check all, then set; undo gives back upstream's.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ... import activation
from ...events import log
from ..contract import seams

__all__ = [
    "hold_for_lowering",
    "install",
    "installed",
    "installed_for",
    "keep_way_back",
    "provide",
    "remove",
    "remove_if_unneeded",
]

_Wrap = Callable[[Any], Any]

_lock = threading.RLock()


@dataclass(frozen=True)
class _Site:
    """One replaced attribute."""

    owner: Any
    name: str
    upstream: Any
    ours: Any


# Path of an object -> what wraps it while something needs that, or from the first policy on.
_wrappers: dict[str, _Wrap] = {}
_for_good: dict[str, _Wrap] = {}
_sites: list[_Site] = []


def provide(path: str, wrap: _Wrap, *, for_good: bool = False) -> None:
    """Registers what replaces the object at ``path`` (a row of the table of seams).

    ``for_good``: it is wrapped with the first policy that is not stock and stays wrapped.
    """
    (_for_good if for_good else _wrappers)[path] = wrap


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
        prepared = [_prepared(seams.by_path(path), wrap) for path, wrap in _wrappers.items()]
        for site in prepared:
            setattr(site.owner, site.name, site.ours)
        _sites.extend(prepared)
        keep_way_back()


def _prepared(seam: seams.Seam, wrap: _Wrap) -> _Site:
    owner, name = seam.owner()
    upstream = getattr(owner, name)
    ours = wrap(upstream)
    setattr(ours, seams.OURS, seam.path)
    return _Site(owner, name, upstream, ours)


@contextlib.contextmanager
def installed_for(owner: object) -> Iterator[None]:
    """The wrappers in place for the time of a block, however many others need them.

    Raises:
        UnsupportedTorchError: as for :func:`install`.
    """
    token = id(owner)
    with _lock:
        install()
        activation.hold(token)
    try:
        yield
    finally:
        if activation.release(token):
            remove_if_unneeded()


def keep_way_back() -> None:
    """Sees to it that no compile of this process fails because of a policy; twice is once."""
    with _lock:
        for path, wrap in _for_good.items():
            seam = seams.by_path(path)
            if getattr(seam.resolve(), seams.OURS, None) != seam.path:
                site = _prepared(seam, wrap)
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
    """Makes sure that the wrappers stand while a graph that carries a policy is lowered.

    A graph's policy may outlive the call that enabled it (lazily compiled backward), come
    without one (``options()``), or be undone by another thread meanwhile.  The hold ends when
    the graph has been lowered (:mod:`.graph_lowering`), or with ``disable()``.
    """
    with _lock:
        install()
        activation.hold(id(module))
