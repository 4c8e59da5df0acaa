"""How long buffers stay in memory whatever fused kernels do, and which share their memory."""

from __future__ import annotations

from torch._inductor import ir
from torch._inductor.graph import GraphLowering

from .kernels import is_fused
from .schedule import Schedule

__all__ = ["Lifetimes"]

# What a backward is given and its caller keeps; what else it is given was saved for it, and is
# freed when it was last read (`torch._inductor.utils.is_nonfreeable_buffers`).
_HELD = ("primals_", "arg", "fwd_rng_state", "bwd_rng_state", "tangents")


class Lifetimes:
    """Of every buffer of a scheduled graph: see :attr:`.Value.until` and :attr:`.Value.memory`."""

    def __init__(self, lowered: GraphLowering, schedule: Schedule) -> None:
        self._until: dict[str, int] = {}
        self._inside: dict[str, str] = {new: old for old, new in schedule.next_version.items()}
        end = len(schedule.kernels)
        for position, kernel in enumerate(schedule.kernels):
            for member in kernel.get_nodes():
                for buffer in member.get_outputs():
                    layout = getattr(buffer.node, "layout", None)
                    if isinstance(layout, ir.NonOwningLayout):  # a part of a concatenation
                        self._inside[buffer.get_name()] = layout.view.get_name()
                if not is_fused(kernel):
                    # A false dependency orders kernels and keeps nothing alive.
                    deps = (d for d in member.read_writes.reads if not getattr(d, "is_fake", False))
                    self._until |= dict.fromkeys((dep.name for dep in deps), position)
        held = (
            name
            for name in (*lowered.graph_inputs, *lowered.constants)
            if not lowered.is_backward or name in lowered.constants or name.startswith(_HELD)
        )
        self._until |= dict.fromkeys((*held, *schedule.outputs), end)

    def until(self, buffer: str) -> int:
        """The last schedule position at which anything but a fused kernel needs it, or -1."""
        return self._until.get(buffer, -1)

    def memory(self, buffer: str) -> str:
        """The buffer in whose memory one lies; itself where it has its own."""
        while buffer in self._inside:
            buffer = self._inside[buffer]
        return buffer
