"""What only `compare`, `explain` and `sweep` need: capturing a graph, and a GPU that is not there.

Rows of the table :mod:`.table`, which says what a row is.
"""

from __future__ import annotations

from .seam import Seam, Use

__all__ = ["OFFLINE_SEAMS"]

_COMPARE = ("compare",)
_INTERPRET = ("interpret",)
_CALLABLE = "the code that calls it goes"

OFFLINE_SEAMS: tuple[Seam, ...] = (
    *(
        Seam(
            f"torch._dynamo.trace_rules:{name}",
            Use.CALLED,
            "functions that a program calls and that Dynamo knows by their identity are not copied",
            _CALLABLE,
            _COMPARE,
            {"c5cb67f1a63089e1": "2.11 to 2.15"},
        )
        for name in (
            "is_callable_allowed",
            "is_callable_disallowed",
            "is_leaf_function",
            "is_nonstrict_trace_callable",
        )
    ),
    Seam(
        "torch._inductor.compile_fx:_recursive_post_grad_passes",
        Use.CALLED,
        "from a captured graph to the post-grad graph",
        _CALLABLE,
        _COMPARE,
        {"d825255ea2814dd3": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.fx_passes.post_grad:view_to_reshape",
        Use.CALLED,
        "from a captured graph to the post-grad graph",
        _CALLABLE,
        _COMPARE,
        {"ece80a8b072b4f8b": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.compile_fx:_recursive_record_original_output_strides",
        Use.CALLED,
        "from a captured graph to the post-grad graph",
        _CALLABLE,
        _COMPARE,
        {"ece80a8b072b4f8b": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.compile_fx:select_decomp_table",
        Use.CALLED,
        "decompositions for graphs traced without Dynamo",
        _CALLABLE,
        _COMPARE,
        {"6a69567a08edb7be": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.runtime.hints:DeviceProperties",
        Use.ANSWERED,
        "device properties of a GPU that is not there",
        "Inductor takes device properties as an argument",
        _COMPARE,
    ),
    Seam(
        "torch._subclasses.fake_tensor:init_gpu_context",
        Use.ANSWERED,
        "fake CUDA tensors without a driver",
        "fake tensors no longer initialize CUDA",
        _COMPARE,
    ),
    Seam(
        "torch._subclasses.fake_impls:op_implementations_dict",
        Use.ANSWERED,
        "1-d convolutions on fake CUDA tensors, in a torch that is built without CUDA",
        "fake convolutions no longer reach for the device to make an operand contiguous",
        _COMPARE,
    ),
    Seam(
        "torch._C:_conv_determine_backend_memory_format",
        Use.ANSWERED,
        "layout of convolutions on a GPU that is not there",
        "Inductor's layout of convolutions takes the device as an argument",
        _COMPARE,
    ),
    Seam(
        "torch._C:_select_conv_backend",
        Use.ANSWERED,
        "layout of convolutions on a GPU that is not there",
        "Inductor's layout of convolutions takes the device as an argument",
        _COMPARE,
    ),
    Seam(
        "torch.utils._triton:triton_hash_with_backend",
        Use.ANSWERED,
        "generated code for a GPU that is not there: part of a kernel's cache key",
        "code can be generated without a driver",
        _COMPARE,
    ),
    Seam(
        "torch.utils._triton:has_triton",
        Use.ANSWERED,
        "its remembered answer is dropped around a trial lowering",
        "has_triton takes a device",
        _COMPARE,
    ),
    Seam(
        "torch._dynamo.convert_frame:input_codes",
        Use.SETTING,
        "code that a program has compiled, which a capture must leave alone",
        "Dynamo can compile beside its caches",
        _COMPARE,
    ),
    Seam(
        "torch._dynamo.pgo:_CODE_STATE",
        Use.SETTING,
        "sizes that a program has seen, which a capture must not take for ones that change",
        "Dynamo can compile beside its caches",
        _COMPARE,
    ),
    Seam(
        "torch.utils:swap_tensors",
        Use.ANSWERED,
        "Module.to of a builder, on fake weights",
        "Module.to converts fake weights that something else refers to",
        _COMPARE,
    ),
    Seam(
        "torch._inductor.scheduler:has_triton",
        Use.ANSWERED,
        "bytes for a GPU where no Triton is installed",
        "a GPU can be scheduled for without Triton",
        _COMPARE,
    ),
    Seam(
        "torch._inductor.runtime.triton_heuristics:cached_autotune",
        Use.CALLED,
        "a kernel's configurations, of which the first is interpreted, in place of an autotuner",
        "kernels can be configured without a driver",
        _INTERPRET,
        {"22f5f844b5001990": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.runtime.triton_heuristics:GridExpr.from_meta",
        Use.CALLED,
        "the grid of a kernel that is interpreted",
        _CALLABLE,
        _INTERPRET,
        {"b2634d10d8afa2b9": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.runtime.triton_heuristics:GridExpr.eval_slow",
        Use.CALLED,
        "the grid of a kernel that is interpreted",
        _CALLABLE,
        _INTERPRET,
        {"779d379cd2e6ebd7": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.async_compile:AsyncCompile.triton",
        Use.CALLED,
        "kernels of a generated module are interpreted instead of compiled",
        "a generated module can be loaded without a driver",
        _INTERPRET,
        {"444558c4310e5433": "2.11 to 2.15"},
    ),
    *(
        Seam(
            f"torch._inductor.runtime.triton_helpers:{name}",
            Use.ANSWERED,
            "kernels are interpreted on a CPU, their mathematical functions torch's",
            "Triton's interpreter knows a GPU's library of functions",
            _INTERPRET,
        )
        for name in ("libdevice", "set_driver_to_gpu")
    ),
    *(
        Seam(
            f"triton.runtime.interpreter:{name}",
            Use.ANSWERED,
            "numbers that are interpreted are rounded and computed as torch does",
            "Triton's interpreter rounds to bf16 and fp8 as a GPU does",
            _INTERPRET,
            optional=True,
        )
        for name in (
            "InterpreterBuilder.cast_impl",
            "InterpreterBuilder.create_fp_to_fp",
            "InterpreterBuilder.create_exp",
            "InterpreterBuilder.create_atomic_rmw",
            "ReduceOps.generic_reduce",
            "TensorHandle",
            "_get_np_dtype",
        )
    ),
)
