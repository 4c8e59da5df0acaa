"""Settings of Inductor that say how a compile is done, and not what comes of it.

Whole names, so that a setting with a similar name is not taken for one of them
(`cpp.gemm_cache_blocking`, `assert_indirect_indexing`).  What slows the code down or needs other
code (`triton.debug_sync_kernel`, `debug_index_asserts`) decides.
"""

from __future__ import annotations

__all__ = ["GROUPS", "SETTINGS", "decides"]

#: Groups of settings, by what their names begin with.
GROUPS = ("trace.",)

#: Settings, and the oldest supported torch that has them.
SETTINGS = {
    "autotune_local_cache": "2.11",
    "autotune_remote_cache": "2.11",
    "bundle_triton_into_fx_graph_cache": "2.11",
    "bundled_autotune_remote_cache": "2.11",
    "compile_threads": "2.11",
    "compile_worker_mode": "2.15",
    "compile_worker_wait_timeout": "2.13",
    "compile_worker_watchdog_interval_seconds": "2.15",
    "cpp_cache_precompile_headers": "2.11",
    "cuda.binary_remote_cache_force_write": "2.11",
    "cuda.cutlass_dir": "2.11",
    "cuda.upload_to_binary_remote_cache": "2.11",
    "cuda.use_binary_remote_cache": "2.11",
    "cutlass.binary_remote_cache_force_write": "2.11",
    "cutlass.cutlass_dir": "2.11",
    "cutlass.upload_to_binary_remote_cache": "2.11",
    "cutlass.use_binary_remote_cache": "2.11",
    "debug": "2.11",
    "debug_fusion": "2.11",
    "debug_ir_traceback": "2.11",
    "fx_graph_cache": "2.11",
    "fx_graph_remote_cache": "2.11",
    "global_cache_dir": "2.11",
    "non_blocking_remote_cache_write": "2.11",
    "remote_gemm_autotune_cache": "2.11",
    "rocm.ck_dir": "2.11",
    "torchinductor_worker_logpath": "2.11",
    "triton.proton_output_dir": "2.11",
    "unsafe_skip_cache_dynamic_shape_guards": "2.11",
    "worker_log_path": "2.11",
    "worker_start_method": "2.11",
    "worker_suppress_logging": "2.11",
    "xpu.binary_remote_cache_force_write": "2.11",
    "xpu.cutlass_dir": "2.11",
    "xpu.upload_to_binary_remote_cache": "2.11",
    "xpu.use_binary_remote_cache": "2.11",
}


def decides(setting: str) -> bool:
    """Whether what Inductor makes of a graph may depend on a setting."""
    return setting not in SETTINGS and not setting.startswith(GROUPS)
