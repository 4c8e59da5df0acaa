"""Lets vLLM's own backend run on a CPU, where vLLM would compile with plain Inductor.

For an engine that runs in this process:

- the CPU platform turns mode 3 (vLLM's backend) into plain `torch.compile`, and changes what else
  decides about the graphs that are compiled (vLLM's IR operators are unwrapped, say); all that is
  put back, but :data:`LEFT`, so that the graphs are those of a GPU's defaults;
- a CPU build lacks the CUDA operators that vLLM's pass FixFunctionalization names; they get empty
  schemas, which nothing ever calls.
"""

from __future__ import annotations

import copy
import dataclasses
import functools

import torch

# As far as vLLM 0.24 to 0.32 name them.
MISSING = {
    "rms_norm": "(Tensor! result, Tensor input, Tensor weight, float epsilon) -> ()",
    "fused_add_rms_norm": "(Tensor! input, Tensor! residual, Tensor weight, float epsilon) -> ()",
    "silu_and_mul": "(Tensor! result, Tensor input) -> ()",
    "rms_norm_static_fp8_quant": (
        "(Tensor! result, Tensor input, Tensor weight, Tensor scale, float epsilon) -> ()"
    ),
    "fused_add_rms_norm_static_fp8_quant": (
        "(Tensor! result, Tensor input, Tensor! residual, Tensor weight, Tensor scale, "
        "float epsilon) -> ()"
    ),
    "rms_norm_dynamic_per_token_quant": (
        "(Tensor! result, Tensor input, Tensor weight, Tensor! scale, float epsilon, "
        "Tensor? scale_ub, Tensor!? residual) -> ()"
    ),
    "silu_and_mul_quant": "(Tensor! result, Tensor input, Tensor scale) -> ()",
    "fused_qk_norm_rope": (
        "(Tensor! qkv, int a, int b, int c, int d, float epsilon, Tensor q, Tensor k, "
        "Tensor cache, bool neox, Tensor positions) -> ()"
    ),
    "rotary_embedding": (
        "(Tensor positions, Tensor! query, Tensor!? key, int head_size, Tensor cache, "
        "bool is_neox) -> ()"
    ),
}

# What the CPU platform may go on deciding: there are no CUDA graphs to capture.
LEFT = frozenset({"cudagraph_mode", "cudagraph_capture_sizes", "max_cudagraph_capture_size"})

_library = torch.library.Library("_C", "FRAGMENT")


def install() -> None:
    """Both parts; twice is once."""
    import vllm._custom_ops  # noqa: F401 - loads the operators that there are

    for name, schema in MISSING.items():
        if not hasattr(torch.ops._C, name):
            _library.define(name + schema)
    _keep_what_is_compiled()


def _keep_what_is_compiled() -> None:
    from vllm.platforms import cpu

    platform = cpu.CpuPlatform
    upstream = platform.check_and_update_config.__func__
    if hasattr(upstream, "__wrapped__"):
        return

    @functools.wraps(upstream)
    def check_and_update_config(cls, vllm_config):
        compilation = vllm_config.compilation_config
        names = [field.name for field in dataclasses.fields(compilation)]
        asked = {name: copy.copy(getattr(compilation, name, None)) for name in names}
        upstream(cls, vllm_config)
        if asked["mode"] is None or asked["mode"] != 3:
            return
        for name in names:
            if name not in LEFT and getattr(compilation, name, None) != asked[name]:
                setattr(compilation, name, asked[name])
        compilation.inductor_compile_config["cpp.dynamic_threads"] = True

    platform.check_and_update_config = classmethod(check_and_update_config)
