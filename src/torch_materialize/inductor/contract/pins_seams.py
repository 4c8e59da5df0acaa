"""What `keep` and `inline` need.

Rows of the table :mod:`.table`, which says what a row is.
"""

from __future__ import annotations

from .seam import Seam, Use

__all__ = ["PINS_SEAMS"]

_PINS = ("pins",)
_PINS_KNOWN = "Inductor has marks for a tensor that is to be written, or never"

PINS_SEAMS: tuple[Seam, ...] = (
    Seam(
        "torch._inductor.lowering:register_lowering",
        Use.CALLED,
        "registers what `keep`, `inline` and a rounding mean",
        _PINS_KNOWN,
        ("policy", "pins"),
        {"dc356cbb16c4245f": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.lowering:lowerings",
        Use.SETTING,
        "whether anything in a graph is Inductor's to fuse; a copy where the pinned tensor is "
        "written into later",
        _PINS_KNOWN,
        ("policy", "pins"),
    ),
    Seam(
        "torch._inductor.lowering:fallbacks",
        Use.SETTING,
        "which operators are extern kernels; which read copies, for the report of a pin",
        _PINS_KNOWN,
        ("policy", "pins"),
    ),
    Seam(
        "torch._inductor.ir:StorageBox.realize",
        Use.CALLED,
        "`keep` calls it; `inline` extends it in a subclass, to report who needs a buffer",
        _PINS_KNOWN,
        _PINS,
        {"ce66be8890a3dcb3": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.ir:StorageBox.realize_hint",
        Use.CALLED,
        "answered by the subclass: no buffer because of a hint",
        _PINS_KNOWN,
        _PINS,
        {"ce66be8890a3dcb3": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.ir:StorageBox.has_exceeded_max_reads",
        Use.CALLED,
        "answered by the subclass: no buffer because of a count",
        _PINS_KNOWN,
        _PINS,
        {"ce66be8890a3dcb3": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.ir:IRNode.is_realized_node",
        Use.CALLED,
        "whether a pinned value is in memory already",
        _PINS_KNOWN,
        _PINS,
        {"17d4cc7685ba6425": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.graph:GraphLowering.mark_buffer_mutated",
        Use.CALLED,
        "fills `mutated_buffers`: what was written into is not recomputed",
        _PINS_KNOWN,
        _PINS,
        {"dca4cd40d17ca26d": "2.11 to 2.15"},
    ),
    Seam(
        "torch.fx.experimental.proxy_tensor:get_proxy_mode",
        Use.CALLED,
        "whether make_fx is tracing",
        "torch.compiler.is_compiling covers make_fx and AOTAutograd",
        _PINS,
        {"6a69567a08edb7be": "2.11 to 2.15"},
    ),
    Seam(
        "torch._C:_get_dispatch_mode",
        Use.SETTING,
        "whether AOTAutograd is tracing",
        "torch.compiler.is_compiling covers make_fx and AOTAutograd",
        _PINS,
    ),
)
