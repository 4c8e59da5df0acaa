"""The policy that the environment asks for: one reading for every automatic way in."""

from __future__ import annotations

import logging
import os

from .api import Handle, _enable
from .core.policy import parse
from .events import once

__all__ = ["VARIABLE", "enable_from_environment"]

VARIABLE = "TORCH_MATERIALIZE"


def enable_from_environment(default: str) -> Handle | None:
    """Enables what :data:`VARIABLE` names, ``default`` where it is unset.

    Empty, ``0`` or ``stock`` leave Inductor as it is, which is None.  So is a policy that
    cannot be had: a misspelt name or a torch that we do not know is logged once.  Never raises.
    """
    name = os.environ.get(VARIABLE, default).strip()
    if name in ("", "0", "stock"):
        return None
    origin = f"{VARIABLE}={name}" if VARIABLE in os.environ else f"{VARIABLE} not set: {name}"
    try:
        return _enable(parse(name), origin)
    except Exception as error:  # noqa: BLE001 - a program must start without us
        problem = " ".join(str(error).split())
        once("auto", logging.WARNING, "%s is ignored: %s", origin, problem)
        return None
