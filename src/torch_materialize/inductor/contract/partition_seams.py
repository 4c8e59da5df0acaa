"""What the choice of what a forward saves for its backward needs.

Rows of the table :mod:`.table`, which says what a row is.
"""

from __future__ import annotations

from .seam import Seam, Use

__all__ = ["PARTITION_SEAMS"]

_POLICY = ("policy",)
_CHOICE_GONE = "upstream's partitioner counts the bytes that fused kernels move"
_MODULE = "torch._functorch.partitioners"

PARTITION_SEAMS: tuple[Seam, ...] = (
    Seam(
        "torch._inductor.config:custom_partitioner_fn",
        Use.SETTING,
        "carries our partitioner into one compile and into its cache keys",
        _CHOICE_GONE,
        _POLICY,
    ),
    Seam(
        f"{_MODULE}:choose_saved_values_set",
        Use.CALLED,
        "wrapped: gives upstream's partitioner another list of what to save",
        "the partitioner takes the list, or prices, as an argument",
        _POLICY,
        {"ad292cf90994f5cb": "2.11 to 2.15"},
    ),
    Seam(
        f"{_MODULE}:min_cut_rematerialization_partition",
        Use.CALLED,
        "cuts the joint graph; all that it promises besides the list is kept",
        _CHOICE_GONE,
        _POLICY,
        {"650a0c3a45aa42d5": "2.11 to 2.15"},
    ),
    Seam(
        f"{_MODULE}:get_default_op_list",
        Use.CALLED,
        "which operators can be recomputed, fused, are views, random or matmuls",
        _CHOICE_GONE,
        _POLICY,
        {"6a69567a08edb7be": "2.11 to 2.15"},
    ),
    Seam(
        f"{_MODULE}:must_recompute",
        Use.CALLED,
        "what torch.utils.checkpoint wants recomputed",
        _CHOICE_GONE,
        _POLICY,
        {"17d4cc7685ba6425": "2.11 to 2.15"},
    ),
    Seam(
        f"{_MODULE}:_size_of",
        Use.CALLED,
        "bytes of a value under size hints, symbolic sizes included",
        _CHOICE_GONE,
        _POLICY,
        {"17d4cc7685ba6425": "2.11 to 2.15"},
    ),
    Seam(
        f"{_MODULE}:estimate_runtime",
        Use.CALLED,
        "operations of a matmul or an attention that would run again",
        _CHOICE_GONE,
        _POLICY,
        {"17d4cc7685ba6425": "2.11 to 2.15"},
    ),
    Seam(
        f"{_MODULE}:NodeInfo",
        Use.SETTING,
        "what is forward, what needs a tangent, what are inputs",
        _CHOICE_GONE,
        _POLICY,
    ),
)
