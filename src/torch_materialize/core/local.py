"""The `traffic` rule: materialize or recompute one reused tensor, by memory traffic.

Source: the cost model of PyTorch PR 176994 (April 2026, reverted by 182184 and 182312) and
its vLLM backport, PR 42686 (reverted by 42913).  Inlining a tensor makes each of its users
read the tensor's inputs; materializing it costs one read of the inputs, one write, and one
read per user.  Only the decision is here; who gathers the facts is
:mod:`torch_materialize.inductor.hooks.reuse`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Reason", "Reuse", "Verdict", "decide"]


class Reason(str, Enum):
    """Which step of the rule decided."""

    NOT_REUSED = "has one user"
    UPSTREAM = "Inductor materializes it for a reason other than its read count"
    LARGE_BODY = "its body is large"
    BROADCAST = "reused by a broadcast, not by several users"
    TRAFFIC = "bytes moved"
    READ_COUNT = "a size is unknown, so Inductor's read count decides"


@dataclass(frozen=True)
class Reuse:
    """What the rule may look at.  All sizes are in bytes; 0 means that a size is unknown.

    ``upstream`` is what the installed Inductor decides for reasons other than read count and
    body size (heavy operations on CPU, in-line assembly, fan-out: they differ by version).
    ``graph_reuse`` is False where torch 2.13 and later check for a broadcast (``expand``)
    and not about several users in the graph; upstream then leaves the read count out, and
    so the traffic inequality that replaces it is left out too.
    """

    users: int
    upstream: bool
    large_body: bool
    read_bytes: int
    output_bytes: int
    reads: int
    reads_threshold: int
    graph_reuse: bool = True


@dataclass(frozen=True)
class Verdict:
    """The decision, the step that took it, and both prices in bytes (0 where not priced)."""

    materialize: bool
    reason: Reason
    inline_bytes: int = 0
    store_bytes: int = 0


def decide(reuse: Reuse) -> Verdict:
    """Applies the rule in upstream's order: heavy operations, large body, bytes, read count."""
    if reuse.users <= 1:
        return Verdict(False, Reason.NOT_REUSED)
    if reuse.upstream:
        return Verdict(True, Reason.UPSTREAM)
    if reuse.large_body:
        return Verdict(True, Reason.LARGE_BODY)
    if not reuse.graph_reuse:
        return Verdict(False, Reason.BROADCAST)
    if reuse.read_bytes > 0 and reuse.output_bytes > 0:
        # Both sides of upstream's `read * (users - 1) >= output * (1 + users)` have one
        # `read` added, so that they are the two prices and can be shown to a reader.
        inline = reuse.read_bytes * reuse.users
        store = reuse.read_bytes + reuse.output_bytes * (1 + reuse.users)
        return Verdict(inline >= store, Reason.TRAFFIC, inline, store)
    return Verdict(reuse.reads > reuse.reads_threshold, Reason.READ_COUNT)
