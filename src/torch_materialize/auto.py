"""``import torch_materialize.auto``: enable for a whole program from its environment.

``TORCH_MATERIALIZE=traffic python -c 'import torch_materialize.auto; ...'``.  Unset, empty,
``0`` or ``stock`` leave Inductor as it is.  This never raises: a misspelt policy or a torch
that we do not know is logged once and stock stays.
"""

from __future__ import annotations

import logging
import os

from .api import Handle, _enable
from .core.policy import parse
from .events import once

__all__ = ["VARIABLE", "handle"]

VARIABLE = "TORCH_MATERIALIZE"


def _from_environment() -> Handle | None:
    name = os.environ.get(VARIABLE, "").strip()
    if name in ("", "0", "stock"):
        return None
    try:
        return _enable(parse(name), f"{VARIABLE}={name}")
    except Exception as error:  # noqa: BLE001 - a program must start without us
        once("auto", logging.WARNING, "%s=%s is ignored: %s", VARIABLE, name, error)
        return None


#: The handle of what the environment asked for, None where it asked for nothing or failed.
handle = _from_environment()
