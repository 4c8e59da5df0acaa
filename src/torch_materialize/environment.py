"""The policy that the environment names: one reading for every automatic way in."""

from __future__ import annotations

import logging
import os
from typing import NamedTuple

from .api import Handle, _enable
from .core.policy import DEFAULT_POLICY, STOCK, Policy, parse
from .errors import in_one_line
from .events import once

__all__ = [
    "POLICY_VARIABLE",
    "Setting",
    "enable_from_environment",
    "policy_from_environment",
    "read_setting",
]

POLICY_VARIABLE = "TORCH_MATERIALIZE"

# What people write into a switch, beside the names of policies.
_ON = ("1", "on", "true")
_OFF = ("", "0", "off", "false", "stock")


class Setting(NamedTuple):
    """What :data:`POLICY_VARIABLE` says.

    Attributes:
        written: its text; None where it is not set.
        name: the policy that it means, as :func:`.core.policy.parse` takes it; not checked.
    """

    written: str | None
    name: str

    @property
    def origin(self) -> str:
        """Where it is from, for logs and for ``doctor``."""
        if self.written is None:
            return f"{POLICY_VARIABLE} not set: {self.name}"
        return f"{POLICY_VARIABLE}={self.written}"


def read_setting(unset: str) -> Setting:
    """Reads :data:`POLICY_VARIABLE`; nothing else does.

    ``1``, ``on`` and ``true`` mean the default policy, and ``0``, ``off``, ``false``, ``stock``
    and an empty text mean stock, in any case; ``unset`` is the policy where it is not set.
    """
    written = os.environ.get(POLICY_VARIABLE)
    if written is None:
        return Setting(None, unset)
    written = written.strip()
    if written.lower() in _ON:
        return Setting(written, DEFAULT_POLICY)
    return Setting(written, STOCK.name if written.lower() in _OFF else written)


def policy_from_environment(unset: str) -> Policy:
    """The policy that :data:`POLICY_VARIABLE` names, ``unset`` where it is not set.

    A misspelt one is stock, and is logged once.  Never raises.
    """
    wanted = read_setting(unset)
    try:
        return parse(wanted.name)
    except Exception as error:  # noqa: BLE001 - a program must start without us
        _warn_ignored(wanted, error)
        return STOCK


def enable_from_environment(unset: str) -> Handle | None:
    """Enables what :data:`POLICY_VARIABLE` names, ``unset`` where it is not set; None for stock.

    What cannot be had, a misspelt policy or any on a torch that we do not know, is logged once
    and is None, too.  Never raises.
    """
    policy = policy_from_environment(unset)
    if policy.is_stock:
        return None
    wanted = read_setting(unset)
    try:
        return _enable(policy, wanted.origin)
    except Exception as error:  # noqa: BLE001 - a program must start without us
        _warn_ignored(wanted, error)
        return None


def _warn_ignored(wanted: Setting, error: Exception) -> None:
    once("auto", logging.WARNING, "%s is ignored: %s", wanted.origin, in_one_line(error))
