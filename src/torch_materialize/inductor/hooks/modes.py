"""What ``torch.compile(mode=...)`` means, by the installed torch."""

from __future__ import annotations

from typing import Any

from ...core.policy import check_name
from ..contract import seams

__all__ = ["mode_options"]


def mode_options(mode: str | None) -> dict[str, Any]:
    """Inductor's settings under a mode of ``torch.compile``; none for None.

    Upstream hands on whether shapes are dynamic, and no supported torch looks at it.

    Raises:
        UnknownPolicyError: this torch has no such mode.
        UnsupportedTorchError: this torch does not say what its modes mean.
    """
    if mode is None:
        return {}
    seams.require("mode")
    from torch._inductor import list_mode_options

    modes: dict[str, dict[str, Any]] = list_mode_options()
    check_name("mode", mode, modes)
    return dict(modes[mode])
