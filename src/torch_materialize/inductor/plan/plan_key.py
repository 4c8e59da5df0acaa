"""The key of a graph's plan: what one plan file is for.

Not in it are the versions of torch and of ours: a plan is checked by a trial lowering before it is
used (:mod:`.plan_files`), and one that still comes to what it claims is as good as new.  Nor is the
policy's name, so that `plan` goes by what `tune` has measured.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from torch._inductor import config

from ...core.devices import Device
from ...core.policy import Policy
from ..fx.canonical import Canonical
from ..fx.post_grad import PostGrad

__all__ = ["device_class", "plan_key"]

# Raised when other lines make the key, so that no old file is taken for a new graph's.
_VERSION = 1
# Settings of Inductor that change what it makes of a post-grad graph.  What a trial lowering sets
# itself is not among them (`max_autotune`), nor what says how code is made for a kernel.
_DECIDING = (
    "aggressive_fusion",
    "combo_kernels",
    "cpp.enable_concat_linear",
    "cpp.fallback_scatter_reduce_sum",
    "cpp.max_horizontal_fusion_size",
    "cpu_backend",
    "cuda_backend",
    "epilogue_fusion",
    "fallback_random",
    "force_layout_optimization",
    "force_pointwise_cat",
    "implicit_fallbacks",
    "inplace_buffers",
    "keep_output_stride",
    "layout_optimization",
    "loop_index_inversion_in_fusion",
    "loop_ordering_after_fusion",
    "max_fusion_size",
    "max_fusion_unique_io_buffers",
    "max_pointwise_cat_inputs",
    "pick_loop_orders",
    "prologue_fusion",
    "realize_acc_reads_size_threshold",
    "realize_acc_reads_threshold",
    "realize_opcount_threshold",
    "realize_reads_threshold",
    "score_fusion_memory_threshold",
    "split_reductions",
    "triton.cooperative_reductions",
    "triton.max_tiles",
    "triton.mix_order_reduction",
    "triton.persistent_reductions",
    "triton.prefer_nd_tiling",
    "triton.tiling_prevents_pointwise_fusion",
    "triton.tiling_prevents_reduction_fusion",
    "unroll_reductions_threshold",
)


def plan_key(form: Canonical, graph: PostGrad, policy: Policy, device: Device | None) -> str:
    """A digest of a graph in canonical form, the device that it is for, and the settings."""
    digest = hashlib.sha256()
    for part in (
        f"version {_VERSION}",
        f"{policy.numerics} {policy.limits}{f' peak {policy.peak}' if policy.peak else ''}",
        f"{graph.is_inference} {graph.is_backward} {graph.cpp_wrapper} {graph.aot_mode}",
        device_class(device),
        *_settings(),
        form.digest,
    ):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:32]


def device_class(device: Device | None) -> str:
    """Which GPU it is, or that it is a CPU: how fast one is decides what is best, but not what a
    plan moves.
    """
    return "unknown" if device is None else device.name


def _settings() -> Iterator[str]:
    """Settings that somebody changed: another torch may have another default."""
    for name in _DECIDING:
        entry = config._config.get(name)
        if entry is None:
            continue
        group, _, last = name.rpartition(".")
        value = getattr(getattr(config, group) if group else config, last)
        if value != entry.default:
            yield f"{name}={value}"
