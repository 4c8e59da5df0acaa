"""The `traffic` policy at ``StorageBox.should_realize_on_reuse``.

The heir of vLLM's ``_patch_should_realize_on_reuse`` (PR 42686, ``vllm/env_override.py``).
It differs in three ways: upstream's own reasons come from the installed upstream function
instead of being copied from one version; it acts only on graphs that carry a policy; and
that policy is in the graph's cache key.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch._inductor import config, ir
from torch._inductor.utils import sympy_product
from torch._inductor.virtualized import V

from ...core import local
from ...events import log, surprise
from ..fx.policy_mark import governing_policy
from ..read.pin_nodes import INLINE, is_pin

__all__ = ["patch_should_realize_on_reuse"]


_Upstream = Callable[..., bool]


class _WithoutCounts:
    """A StorageBox whose read count and body size never reach a threshold.

    Upstream's function, called with this stand-in, answers with its remaining reasons alone
    (heavy operations on CPU, in-line assembly, fan-out), whatever they are in the installed
    version.  That keeps the rule current without a copied body and without touching config.
    """

    __slots__ = ("_box",)

    def __init__(self, box: ir.StorageBox) -> None:
        self._box = box

    def __getattr__(self, name: str) -> Any:
        return getattr(self._box, name)

    def num_reads(self) -> int:
        return -sys.maxsize

    def has_large_inner_fn(self, threshold: int | None = None) -> bool:
        return False


def patch_should_realize_on_reuse(upstream: _Upstream) -> _Upstream:
    """Wraps upstream's method; graphs without a policy get upstream's answer unchanged.

    Works with both signatures: ``(self, users)`` until 2.12, and with the keyword
    ``graph_reuse`` from 2.13 on.
    """

    @functools.wraps(upstream)
    def should_realize_on_reuse_patched(self: ir.StorageBox, users: int, **kwargs: Any) -> bool:
        try:
            policy = governing_policy()
            if policy is not None and policy.name == "traffic":
                return _by_rule(self, users, upstream, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever it is, the compile must go on
            surprise("torch._inductor.ir:StorageBox.should_realize_on_reuse", error)
        return upstream(self, users, **kwargs)

    return should_realize_on_reuse_patched


def _by_rule(box: ir.StorageBox, users: int, upstream: _Upstream, **kwargs: Any) -> bool:
    """What the local rule answers."""
    if not isinstance(box.data, ir.Pointwise | ir.Reduction) or _is_pinned_inline():
        return False
    if _reads_lone_template(box):
        return upstream(box, users, **kwargs)
    reuse = _facts(box, users, upstream, **kwargs)
    verdict = local.decide(reuse)
    if verdict.materialize and log.isEnabledFor(10):
        node = box.data.get_origin_node()
        log.debug("materialize %s: %s, %s", node, verdict.reason.value, reuse)
    return verdict.materialize


def _is_pinned_inline() -> bool:
    """Whether the node that is being lowered is pinned as inlined: its box does not know yet."""
    node = V.current_node
    return isinstance(node, torch.fx.Node) and any(is_pin(user, INLINE) for user in node.users)


def _reads_lone_template(box: ir.StorageBox) -> bool:
    """Whether a value is computed from what the CPU's template for flex attention made.

    The scheduler fuses it there once it is a buffer, and then code generation fails ("Unsupported
    for `epilogue_nodes`", torch 2.11 to 2.15): in stock, too, but only where stock stores it.
    """
    buffers = (V.graph.try_get_buffer(dep.name) for dep in box.get_reads())
    templates = (b.template for b in buffers if isinstance(b, ir.CppTemplateBuffer))
    return any(type(template).__name__ == "CppFlexAttentionTemplate" for template in templates)


def _facts(
    box: ir.StorageBox, users: int, upstream: _Upstream, graph_reuse: bool = True, **kwargs: Any
) -> local.Reuse:
    """Gathers what the rule may look at, dear questions only where they are still open."""
    if users > 1:
        given = {"graph_reuse": graph_reuse} if _knows_graph_reuse(upstream) else {}
        heavy = upstream(_WithoutCounts(box), users, **given, **kwargs)
        large = not heavy and box.has_large_inner_fn()
    else:
        heavy = large = False
    open_question = users > 1 and graph_reuse and not heavy and not large
    return local.Reuse(
        users=users,
        upstream=heavy,
        large_body=large,
        read_bytes=_read_bytes(box) if open_question else 0,
        output_bytes=_output_bytes(box) if open_question else 0,
        reads=box.num_reads() if open_question else 0,
        reads_threshold=config.realize_reads_threshold,
        graph_reuse=graph_reuse,
    )


@functools.cache
def _knows_graph_reuse(upstream: _Upstream) -> bool:
    return "graph_reuse" in (upstream.__kwdefaults__ or {})


def _read_bytes(box: ir.StorageBox) -> int:
    return sum(V.graph.get_dep_size_hint(dep) for dep in box.get_reads())


def _output_bytes(box: ir.StorageBox) -> int:
    """Size hint in bytes, 0 where an extent is unbacked (upstream's ``fallback=0``)."""
    elements = V.graph.sizevars.optimization_hint(sympy_product(box.data.get_size()), fallback=0)
    return int(elements) * box.data.get_dtype().itemsize
