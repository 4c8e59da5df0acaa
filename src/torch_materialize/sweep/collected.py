"""Captured graphs of a file or a folder, on the device that is planned for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..core.devices import Device
from ..core.policy import Policy
from ..errors import CaptureError
from ..inductor.fx.post_grad import PostGrad
from ..inductor.offline import capture as capturing
from ..inductor.offline.fx_reading import read_graphs
from ..models.graphnet import load

__all__ = ["collected"]


def collected(
    path: Path, policies: Sequence[Policy], device: Device, tracing: str
) -> list[dict[Policy, PostGrad]]:
    """Each graph of a file as torch prints it, or of a folder with a ``model.py``; by policy.

    Raises:
        CaptureError: it cannot be read or traced; the message says why.
    """
    if path.is_dir():
        mode = capturing.fake_mode()
        with mode:
            built = load(path)
        graphs = capturing.capture_for(
            policies, built.model, built.args, built.kwargs, device, mode, tracing, dynamic=False
        )
        return [dict(zip(graphs, row, strict=True)) for row in zip(*graphs.values(), strict=True)]
    traced = [str(policy) for policy in policies if policy.tracing]
    if traced:
        raise CaptureError(
            f"{', '.join(traced)} needs another trace, and this graph has been captured: leave "
            "that policy out"
        )
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise CaptureError(f"it cannot be read ({error.strerror})") from error
    return [dict.fromkeys(policies, graph) for graph in read_graphs(text, device)]
