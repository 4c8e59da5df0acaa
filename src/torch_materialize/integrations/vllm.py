"""The plugin for vLLM: on by default with policy `plan` where both packages are installed.

vLLM calls :func:`register` by its entry-point group ``vllm.general_plugins``, once in each of
its processes and before anything is compiled.  From then on every graph that vLLM hands to
Inductor, whole or in pieces, follows the policy: vLLM's pass manager runs first, as it is, and
the plan is made when the graph is lowered, after vLLM has lowered its own operators.

Inductor's caches know the policy by our pass (:mod:`..inductor.hooks.policy_pass`).  vLLM's own
artifacts do not see that: their keys are made of vLLM's settings, of which the known
environment variables are a table that plugins add to.  Ours goes there.  The table is one for
all threads, unlike overrides of Inductor's config from torch 2.13 on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, MutableMapping
from typing import Any

from ..api import Handle, active
from ..environment import POLICY_VARIABLE, enable_from_environment
from ..errors import brief
from ..events import once
from ..results.plan_file import digest_for
from ..versions import implementation
from . import vllm_log

__all__ = ["handle", "register", "unregister"]

#: The handle of what this process was put under; None where vLLM is left as it is.
handle: Handle | None = None

_lock = threading.Lock()
_registered = False
# vLLM's table of environment variables, name -> its value now, once ours is in it.
_variables: MutableMapping[str, Callable[[], Any]] | None = None


def register() -> None:
    """Puts this process under the policy that ``TORCH_MATERIALIZE`` names, ``plan`` if unset.

    ``stock``, ``0``, ``off`` or an empty value leave vLLM as it is.  A misspelt policy, or a
    torch or vLLM that we cannot work with, does so too, with one line in the log.  Twice is once.
    Never raises: an exception here would end vLLM's process.
    """
    global _registered  # noqa: PLW0603 - one registration of one process
    with _lock:
        if _registered:
            return
        _registered = True
        try:
            vllm_log.install()
            _enable()
        except Exception as error:  # noqa: BLE001 - vLLM must start without us
            _undo()
            once("vllm", logging.WARNING, "vLLM is left as it is: %s", brief(error))


def unregister() -> None:
    """Takes :func:`register` back: what vLLM compiles from now on is stock's."""
    global _registered  # noqa: PLW0603 - one registration of one process
    with _lock:
        _undo()
        vllm_log.remove()
        _registered = False


def _enable() -> None:
    global handle, _variables  # noqa: PLW0603 - one registration of one process
    handle = enable_from_environment("plan")
    if handle is None:
        return
    from vllm import envs

    _variables = envs.environment_variables
    _variables[POLICY_VARIABLE] = _fingerprint
    if envs.compile_factors().get(POLICY_VARIABLE) != _fingerprint():
        raise RuntimeError("the keys of this vLLM's artifacts would not know the policy")
    vllm_log.follow(str(handle.policy))
    once(
        "vllm",
        logging.INFO,
        "policy %s governs what vLLM compiles; %s=stock turns it off",
        handle.policy,
        POLICY_VARIABLE,
    )


def _undo() -> None:
    global handle  # noqa: PLW0603 - one registration of one process
    if handle is None:
        return
    handle.undo()
    handle = None
    if _variables is not None:
        _variables.pop(POLICY_VARIABLE, None)


def _fingerprint() -> str:
    policy = active()
    return policy.fingerprint(f"{implementation()} {digest_for(policy)}".strip())
