"""Whether Inductor lowers graphs in this process."""

from __future__ import annotations

import logging

from torch._inductor import compile_fx

from ...core.policy import Policy
from ...events import once

__all__ = ["out_of_process", "warn_out_of_process"]


def out_of_process() -> bool:
    """Whether Inductor lowers graphs in another process, which settings do not all reach.

    ``TORCHINDUCTOR_FX_COMPILE_MODE`` sends a graph with the portable part of the config;
    custom passes are not portable, so the policy would be in the key and not in the code.
    """
    mode = getattr(compile_fx, "fx_compile_mode", None)
    return getattr(mode, "name", "NORMAL") != "NORMAL"


def warn_out_of_process(policy: Policy) -> None:
    """Says once that the policy stays behind, and what to do about it."""
    once(
        "out-of-process",
        logging.WARNING,
        "policy %s does not reach Inductor's out-of-process compile (%s): graphs compile as "
        "stock and are not cached. Unset TORCHINDUCTOR_FX_COMPILE_MODE to use the policy.",
        policy,
        getattr(compile_fx, "fx_compile_mode", None),
    )
