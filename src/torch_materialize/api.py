"""What users call: ``enable``, ``disable``, ``policy``, ``options``, ``active``."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from typing import Any

from . import activation
from .core.policy import DEFAULT_POLICY, MEMORY, Numerics, Policy, PolicyLike, parse
from .errors import Mismatch, UnsupportedTorchError, brief
from .versions import installed_versions

__all__ = ["Handle", "active", "disable", "enable", "options", "policy"]

# Held while hooks and the list of who needs them change together.
_lock = threading.RLock()


class Handle:
    """What :func:`enable` returns; also a context manager that undoes on exit."""

    def __init__(self, entry: activation.Entry) -> None:
        self._entry = entry

    @property
    def policy(self) -> Policy:
        """The policy that this handle put on."""
        return self._entry.policy

    @property
    def active(self) -> bool:
        """Whether this handle has not been undone yet."""
        return self._entry in activation.entries()

    def undo(self) -> None:
        """Takes back this one ``enable``; twice is once, and any order will do.

        The policy that was on before (or the one enabled since) is on again.  After the
        last one, upstream's own functions stand in their places.
        """
        with _lock:
            activation.pop(self._entry)
            _remove_if_unneeded()

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.undo()

    def __repr__(self) -> str:
        state = "active" if self.active else "undone"
        return f"<torch_materialize.Handle {self.policy} ({state})>"


def enable(
    policy: PolicyLike = DEFAULT_POLICY,
    *,
    numerics: Numerics | None = None,
    memory: float | str | None = None,
    plans: str | PathLike[str] | None = None,
) -> Handle:
    """Puts a policy on for every later compile in this process, in every thread.

    Models compiled before keep what they were compiled with; their lazily compiled backward
    too.  ``numerics`` is what a plan promises about rounding, ``stored`` if it is not given:
    :data:`.core.policy.NUMERICS`.  ``memory`` is the most that the forward of a training step may
    save for its backward, as a share of the bytes that stock's saves: over 0 and up to 1; what is
    not saved is recomputed.  A graph that cannot do with so little fails to compile, with the
    least that it can do with.  ``plans`` is a folder of plan files, which are used without a
    search (``torch-materialize plan``).  Inside a ``with policy(...)`` block the block wins;
    ``options(...)`` wins over both.

    Raises:
        UnknownPolicyError: the policy or a setting is misspelt.
        UnsupportedTorchError: this torch is not one that we checked; nothing was changed.
    """
    return _enable(_parsed(policy, numerics, memory, plans), _caller(2))


def disable() -> None:
    """Undoes every ``enable`` and removes every hook; open blocks keep theirs."""
    with _lock:
        activation.clear()
        _remove_if_unneeded()


@contextmanager
def policy(
    name: PolicyLike = DEFAULT_POLICY,
    *,
    numerics: Numerics | None = None,
    memory: float | str | None = None,
    plans: str | PathLike[str] | None = None,
) -> Iterator[Policy]:
    """Puts a policy on for whatever this thread compiles inside the block.

    A graph whose forward is compiled inside has its backward compiled by the same policy,
    even when that happens later.  ``policy("stock")`` shields a block from :func:`enable`.

    Raises:
        UnknownPolicyError, UnsupportedTorchError: as for :func:`enable`.
    """
    chosen = _parsed(name, numerics, memory, plans)
    with _lock:
        if not chosen.is_stock:
            _install()
        scope = activation.block(chosen)
        scope.__enter__()
    try:
        yield chosen
    finally:
        with _lock:
            scope.__exit__()
            _remove_if_unneeded()


def options(
    policy: PolicyLike = DEFAULT_POLICY,
    *,
    mode: str | None = None,
    numerics: Numerics | None = None,
    memory: float | str | None = None,
    plans: str | PathLike[str] | None = None,
) -> dict[str, Any]:
    """The ``options`` for ``torch.compile`` that make one model follow a policy.

    They govern the forward and the lazily compiled backward, win over everything enabled,
    and mix with other options: ``options={**tm.options("traffic"), "max_autotune": True}``.
    A ``post_grad_custom_post_pass`` that is set in Inductor's config when this is called is
    kept and runs first.

    ``numerics`` and ``memory`` as for :func:`enable`.

    ``torch.compile`` takes a ``mode`` or ``options`` and not both: ``mode`` is one of its modes
    (``reduce-overhead``, ``max-autotune``, ...), and what it means in this torch is among the
    options returned.  Mode ``lite`` turns Inductor's passes off, and with them the policy.
    ``numerics`` and ``plans`` are as for :func:`enable`.

    Raises:
        UnknownPolicyError: the policy, a setting or the mode is misspelt.
        UnsupportedTorchError: as for :func:`enable`.
    """
    chosen: dict[str, Any] = _patch_module().compile_options(
        _parsed(policy, numerics, memory, plans), mode
    )
    return chosen


def active() -> Policy:
    """The policy that a compile starting now in this thread would follow."""
    return activation.current() or Policy("stock")


def _parsed(
    policy: PolicyLike,
    numerics: Numerics | None,
    memory: float | str | None,
    plans: str | PathLike[str] | None,
) -> Policy:
    folder = None if plans is None else fspath(plans)
    given = {"numerics": numerics, MEMORY: memory, "plans": folder}
    return parse(policy, {name: value for name, value in given.items() if value is not None})


def _enable(chosen: Policy, origin: str) -> Handle:
    with _lock:
        if not chosen.is_stock:
            _install()
        return Handle(activation.push(chosen, origin))


def _install() -> None:
    _patch_module().install()


def _patch_module() -> Any:
    """The module that installs the hooks.

    Raises:
        UnsupportedTorchError: it does not import: something of torch that it names is gone.
    """
    try:
        from .inductor.hooks import install
    except (ImportError, AttributeError) as error:
        missing = Mismatch("torch._inductor", "the names that we import", brief(error))
        raise UnsupportedTorchError([missing], installed_versions()["torch"]) from error
    return install


def _remove_if_unneeded() -> None:
    # Where the module was never imported, nothing was ever installed.
    if f"{__package__}.inductor.hooks.install" in sys.modules:
        _patch_module().remove_if_unneeded()


def _caller(depth: int) -> str:
    frame = sys._getframe(depth)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
