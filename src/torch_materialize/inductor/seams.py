"""The one table of upstream objects that we lean on; tests and ``doctor`` read it.

Each row says what the object is used for, which digests of it were looked at and in which
torch, and when the row can go.  A torch is supported when every row that a feature needs is
there and has a known digest; no version number is compared anywhere.

``python -m torch_materialize.inductor.seams`` prints the digests of the installed torch, for
whoever has read what changed and appends them here.
"""

from __future__ import annotations

import functools
import sys

import torch

from ..core.mismatch import Mismatch
from ..errors import UnsupportedTorchError
from .seam import OURS, Seam, Use

__all__ = ["OURS", "SEAMS", "Seam", "Use", "by_path", "check", "require"]


_POLICY = ("policy",)
_COMPARE = ("compare",)
_PINS = ("pins",)
_TUNE = ("tune",)
_PINS_KNOWN = "Inductor has marks for a tensor that is to be written, or never"
_RULE_GONE = "Inductor ships a cost model at this place that is no worse"
_CALLABLE = "the code that calls it goes"

SEAMS: tuple[Seam, ...] = (
    Seam(
        "torch._inductor.ir:StorageBox.should_realize_on_reuse",
        Use.REPLACED,
        "the choice itself: policy `traffic` answers here",
        _RULE_GONE,
        _POLICY,
        {
            "884d1e7671679ddf": "2.11 to 2.12",
            "074fc6e5720e2128": "2.13",
            "1ff57cde6574294c": "2.14 to 2.15",
        },
    ),
    Seam(
        "torch._inductor.ir:StorageBox.has_large_inner_fn",
        Use.CALLED,
        "step 2 of the rule: large bodies are materialized",
        _RULE_GONE,
        _POLICY,
        {"bec9dc2ba11f5951": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.ir:StorageBox.num_reads",
        Use.CALLED,
        "step 4 of the rule: the read count where a size is unknown",
        _RULE_GONE,
        _POLICY,
        {"ce66be8890a3dcb3": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.ir:StorageBox.get_reads",
        Use.CALLED,
        "step 3 of the rule: what an inlined tensor reads",
        _RULE_GONE,
        _POLICY,
        {"ce66be8890a3dcb3": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.graph:GraphLowering.get_dep_size_hint",
        Use.CALLED,
        "step 3 of the rule: bytes of one read",
        _RULE_GONE,
        _POLICY,
        {"ad1c04e59413c758": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.sizevars:SizeVarAllocator.optimization_hint",
        Use.CALLED,
        "sizes under dynamic shapes",
        _CALLABLE,
        ("policy", "compare"),
        {"e2a3b4e1483beb0c": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.config:realize_reads_threshold",
        Use.SETTING,
        "step 4 of the rule",
        _RULE_GONE,
        _POLICY,
    ),
    Seam(
        "torch._inductor.config:post_grad_custom_post_pass",
        Use.SETTING,
        "carries the policy into a compile and its cache keys (sanctioned)",
        "Inductor has a setting for the policy",
        _POLICY,
    ),
    Seam(
        "torch._inductor.custom_graph_pass:CustomGraphPass",
        Use.SETTING,
        "base class of the pass that carries the policy (sanctioned)",
        "Inductor has a setting for the policy",
        _POLICY,
    ),
    Seam(
        "torch._inductor.custom_graph_pass:CustomInferenceAwareGraphPass",
        Use.SETTING,
        "lets our pass hand `is_inference` on to the passes that it chains",
        "Inductor has a setting for the policy",
        _POLICY,
        optional=True,
    ),
    Seam(
        "torch._inductor.graph:GraphLowering.run",
        Use.CALLED,
        "wrapped: counting rules are out of reach while a planned graph is lowered",
        "the counting rules can be set for one graph",
        _POLICY,
        {"4aa0d42183908d7d": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.graph:GraphLowering.run_node",
        Use.CALLED,
        "extended in a subclass, to remember what each FX node became",
        "Inductor keeps a node's result after lowering",
        ("policy", "compare"),
        {"e26027530bc06648": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.compile_fx:compile_fx",
        Use.CALLED,
        "wrapped: one compile, forward and backward, gets the policy of its thread",
        "config set in one thread reaches compiles in all, and chains with what others set",
        ("policy", "compare"),
        {"31516129ba96f949": "2.11", "3f2e3a3737f64e41": "2.12 to 2.15"},
    ),
    Seam(
        "torch._inductor.fx_passes.joint_graph:pointless_convert",
        Use.REPLACED,
        "tells whether narrowing casts must be held back from it (`plan`, torch 2.11, 2.12)",
        "no supported torch folds a cast that narrows and widens again",
        _POLICY,
        {"eccba58e28deacd0": "2.11 to 2.12", "2aec89eb062d96eb": "2.13 to 2.15"},
    ),
    Seam(
        "torch._inductor.config:joint_custom_pre_pass",
        Use.SETTING,
        "hides narrowing casts from pointless_convert (sanctioned)",
        "no supported torch folds a cast that narrows and widens again",
        _POLICY,
    ),
    Seam(
        "torch._inductor.config:joint_custom_post_pass",
        Use.SETTING,
        "shows the hidden casts again (sanctioned)",
        "no supported torch folds a cast that narrows and widens again",
        _POLICY,
    ),
    Seam(
        "torch._inductor.compile_fx:fx_compile_mode",
        Use.SETTING,
        "tells out-of-process compiles, which the policy does not reach",
        "custom passes travel to out-of-process compiles",
        _POLICY,
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
        "torch._inductor.compile_fx:record_original_output_strides",
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
        "torch._inductor.graph:GraphLowering.__init__",
        Use.CALLED,
        "wrapped: policy `plan` plans here, where the graph is what will be lowered",
        "Inductor has a pass that runs last before lowering",
        ("policy", "compare"),
        {"55e610e55c9bbd26": "2.11", "3fd9e245a4c7c372": "2.12 to 2.15"},
    ),
    Seam(
        "torch._inductor.graph:GraphLowering._update_scheduler",
        Use.CALLED,
        "dry run: scheduling and fusion without code generation",
        "Inductor has a public call that schedules and stops",
        ("policy", "compare"),
        {"ce66be8890a3dcb3": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.graph:SubgraphLowering.__init__",
        Use.CALLED,
        "its attribute `parent` tells the subgraph of a planned graph, which stays stock's",
        "the counting rules can be set for one graph",
        _POLICY,
        {"ff5088fd91f112ec": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.loop_body:LoopBody.has_op",
        Use.CALLED,
        "beside it stands `op_counts`: the operations that a kernel computes",
        _CALLABLE,
        ("policy", "compare"),
        {"dca4cd40d17ca26d": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.loop_body:LoopBody.__call__",
        Use.CALLED,
        "runs a loop on numbered values: which loads of a kernel go through equal indices",
        _CALLABLE,
        ("policy", "compare"),
        {"558aa8211d1cf16f": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.loop_body:LoopBody.bind_set_indirect_shim",
        Use.CALLED,
        "there a loop hands a loaded index to the handler and takes a symbol for it",
        _CALLABLE,
        ("policy", "compare"),
        {"4d5ebd5c84ad453c": "2.11 to 2.15"},
    ),
    Seam(
        "torch.fx.experimental.symbolic_shapes:ShapeEnv._update_version_counter",
        Use.CALLED,
        "dry run: after what it added is taken back, caches must not take it for what is now",
        "a ShapeEnv can be copied, or its changes taken back",
        ("policy", "compare"),
        {"ce66be8890a3dcb3": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.dependencies:MemoryDep.normalize",
        Use.CALLED,
        "the same read under other loops counts once",
        _CALLABLE,
        ("policy", "compare"),
        {"ce66be8890a3dcb3": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.dependencies:MemoryDep.is_indirect",
        Use.CALLED,
        "gathers are counted by accesses",
        _CALLABLE,
        ("policy", "compare"),
        {"ce66be8890a3dcb3": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.ir:MutationOutput.get_mutation_names",
        Use.CALLED,
        "the buffer that an extern kernel wrote into, of which it is the later name",
        _CALLABLE,
        ("policy", "compare"),
        {"ce66be8890a3dcb3": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.scheduler:BaseSchedulerNode.get_nodes",
        Use.CALLED,
        "what one kernel fuses",
        _CALLABLE,
        ("policy", "compare"),
        {"ce66be8890a3dcb3": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.scheduler:BaseSchedulerNode.get_outputs",
        Use.CALLED,
        "what one kernel writes, and for whom",
        _CALLABLE,
        ("policy", "compare"),
        {"ce66be8890a3dcb3": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.lowering:register_lowering",
        Use.CALLED,
        "tells Inductor what `keep`, `inline` and a rounding mean",
        _PINS_KNOWN,
        ("policy", "pins"),
        {"dc356cbb16c4245f": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.ir:Loops.create",
        Use.CALLED,
        "rounds what a kernel stores for its own users, too",
        "Inductor rounds what it stores by itself",
        _POLICY,
        {"e636a816a718737c": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.config:emulate_precision_casts",
        Use.SETTING,
        "the promise `eager`: every cast rounds where eager rounds",
        "Inductor rounds where eager rounds by itself",
        _POLICY,
    ),
    Seam(
        "torch._inductor.codegen.cpp:CppOverrides.to_dtype",
        Use.REPLACED,
        "whether C++ code rounds at a cast to bf16 and back",
        "torch 2.12 is no longer supported",
        _POLICY,
        {
            "d5f6c9c499b39c1f": "2.11 to 2.12",
            "ae8a84a947c822da": "2.13",
            "a8d8a3c22711c8aa": "2.15",
        },
    ),
    Seam(
        "torch._inductor.codegen.cpp:CppKernel.cache_dtype_convert",
        Use.CALLED,
        "what makes C++ code of torch 2.11 and 2.12 forget a cast",
        "torch 2.12 is no longer supported",
        _POLICY,
        {"e06c528ed23683e8": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.graph:GraphLowering.codegen",
        Use.CALLED,
        "during it, casts of one graph are not forgotten",
        "torch 2.12 is no longer supported",
        _POLICY,
        {"ce66be8890a3dcb3": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.graph:GraphLowering.codegen_with_cpp_wrapper",
        Use.CALLED,
        "during it, casts of one graph are not forgotten",
        "torch 2.12 is no longer supported",
        _POLICY,
        {"ce66be8890a3dcb3": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.graph:GraphLowering.compile_to_module",
        Use.CALLED,
        "`tune` compiles its candidates for real",
        "Inductor has a public call from a post-grad graph to a function",
        _TUNE,
        {"ce66be8890a3dcb3": "2.11 to 2.15"},
    ),
    Seam(
        "torch.utils._python_dispatch:_disable_current_modes",
        Use.CALLED,
        "`tune` runs its candidates on real tensors while a graph is compiled",
        "torch has a public way out of tracing",
        _TUNE,
        {"6a69567a08edb7be": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.lowering:lowerings",
        Use.SETTING,
        "a copy where the pinned tensor is written into later",
        _PINS_KNOWN,
        _PINS,
    ),
    Seam(
        "torch._inductor.lowering:fallbacks",
        Use.SETTING,
        "which operators read copies from memory, for the report of a pin",
        _PINS_KNOWN,
        _PINS,
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
    Seam(
        "vllm.envs:environment_variables",
        Use.SETTING,
        "an entry in it enters the keys of vLLM's artifacts",
        "vLLM's keys see the uuids of Inductor's custom passes",
        ("vllm",),
        optional=True,
    ),
    Seam(
        "vllm.envs:compile_factors",
        Use.SETTING,
        "asked whether the entry is in the keys",
        "vLLM's keys see the uuids of Inductor's custom passes",
        ("vllm",),
        optional=True,
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
        "Inductor's layout of convolutions can be asked by device",
        _COMPARE,
    ),
    Seam(
        "torch._C:_select_conv_backend",
        Use.ANSWERED,
        "layout of convolutions on a GPU that is not there",
        "Inductor's layout of convolutions can be asked by device",
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
        "torch._logging._internal:register_log",
        Use.SETTING,
        "a short name for our logger",
        "torch has a public function for it",
        _POLICY,
        optional=True,
    ),
    Seam(
        "torch._logging._internal:trace_structured_artifact",
        Use.SETTING,
        "what a plan decided, among the artifacts that tlparse shows",
        "torch has a public function for it",
        _POLICY,
        optional=True,
    ),
    Seam(
        "torch.utils._triton:has_triton",
        Use.ANSWERED,
        "its remembered answer is dropped around a dry run",
        "has_triton takes a device",
        _COMPARE,
    ),
)


@functools.cache
def _index() -> dict[str, Seam]:
    return {seam.path: seam for seam in SEAMS}


def by_path(path: str) -> Seam:
    """The row of one object.

    Raises:
        KeyError: the table has no such row.
    """
    return _index()[path]


def check(feature: str) -> list[Mismatch]:
    """Every mismatch among the rows that ``feature`` needs; empty when it can work."""
    found = (seam.check() for seam in SEAMS if feature in seam.features)
    return [mismatch for mismatch in found if mismatch is not None]


def require(feature: str) -> None:
    """Checks that this torch can do what ``feature`` needs.

    Raises:
        UnsupportedTorchError: it cannot; the error lists every object that stands in the way.
    """
    mismatches = check(feature)
    if mismatches:
        raise UnsupportedTorchError(mismatches, torch.__version__)


def _print_digests() -> None:
    for seam in SEAMS:
        try:
            digest = seam.digest()
        except (ImportError, AttributeError) as error:
            digest = f"missing: {error}"
        if digest:
            sys.stdout.write(f"{torch.__version__}\t{seam.path}\t{digest}\n")


if __name__ == "__main__":
    _print_digests()
