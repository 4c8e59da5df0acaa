"""Whether Triton interprets kernels in this process; imports nothing that imports Triton."""

from __future__ import annotations

import importlib.util
import os
import sys

from ...errors import TargetError

__all__ = ["interpret_triton"]

_SWITCH = "TRITON_INTERPRET"


def interpret_triton() -> None:
    """Has Triton interpret kernels in this process, which it decides when it is imported.

    Raises:
        TargetError: there is no Triton, or it was imported before.
    """
    if importlib.util.find_spec("triton") is None:
        raise TargetError(
            "a planned GPU's code is run by Triton's interpreter: expected the package triton; "
            "found none. Install the one that belongs to this torch."
        )
    if "triton" not in sys.modules:
        os.environ[_SWITCH] = "1"
    from triton.language import standard
    from triton.runtime.interpreter import InterpretedFunction

    # A function of Triton's own says how it was imported, whatever the variable is now.
    if not isinstance(standard.sigmoid, InterpretedFunction):
        raise TargetError(
            f"a planned GPU's code is run by Triton's interpreter: expected {_SWITCH}=1 when "
            f"triton is imported; it was imported without. Set {_SWITCH}=1 and start a new process."
        )
