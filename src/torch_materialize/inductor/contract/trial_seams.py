"""What a trial lowering needs, in a compile and in `compare`: scheduling and reading kernels.

Rows of the table :mod:`.table`, which says what a row is.
"""

from __future__ import annotations

from .seam import Seam, Use

__all__ = ["TRIAL_SEAMS"]

_BOTH = ("policy", "compare")
_CALLABLE = "the code that calls it goes"

TRIAL_SEAMS: tuple[Seam, ...] = (
    Seam(
        "torch._inductor.sizevars:SizeVarAllocator.optimization_hint",
        Use.CALLED,
        "sizes under dynamic shapes",
        _CALLABLE,
        _BOTH,
        {"e2a3b4e1483beb0c": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.graph:GraphLowering.run_node",
        Use.CALLED,
        "extended in a subclass, to remember what each FX node became",
        "Inductor keeps a node's result after lowering",
        _BOTH,
        {"e26027530bc06648": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.compile_fx:compile_fx",
        Use.CALLED,
        "wrapped: one compile, forward and backward, gets the policy of its thread",
        "config set in one thread reaches compiles in all, and chains with what a program set",
        _BOTH,
        {"31516129ba96f949": "2.11", "3f2e3a3737f64e41": "2.12 to 2.15"},
    ),
    Seam(
        "torch._inductor.graph:GraphLowering.__init__",
        Use.CALLED,
        "wrapped: policy `plan` plans here, where the graph is what will be lowered",
        "Inductor has a pass that runs last before lowering",
        _BOTH,
        {"55e610e55c9bbd26": "2.11", "3fd9e245a4c7c372": "2.12 to 2.15"},
    ),
    Seam(
        "torch._inductor.graph:GraphLowering._update_scheduler",
        Use.CALLED,
        "trial lowering: scheduling and fusion without code generation",
        "Inductor has a public call that schedules and stops",
        _BOTH,
        {"ce66be8890a3dcb3": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.loop_body:LoopBody.has_op",
        Use.CALLED,
        "beside it stands `op_counts`: the operations that a kernel computes",
        _CALLABLE,
        _BOTH,
        {"dca4cd40d17ca26d": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.loop_body:LoopBody.__call__",
        Use.CALLED,
        "runs a loop on numbered values: which loads of a kernel go through equal indices",
        _CALLABLE,
        _BOTH,
        {"558aa8211d1cf16f": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.loop_body:LoopBody.bind_set_indirect_shim",
        Use.CALLED,
        "there a loop hands a loaded index to the handler and takes a symbol for it",
        _CALLABLE,
        _BOTH,
        {"4d5ebd5c84ad453c": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.loop_body:MemoryUsageType.LOAD",
        Use.SETTING,
        "key of the loads in `LoopBody.memory_usage`, counted where a body is too large to run",
        _CALLABLE,
        _BOTH,
    ),
    Seam(
        "torch.fx.experimental.symbolic_shapes:ShapeEnv.evaluate_expr",
        Use.SETTING,
        "trial lowering: what its ShapeEnv holds is put aside while a copy is lowered",
        "a ShapeEnv can be copied, with the symbolic sizes of a graph",
        _BOTH,
    ),
    Seam(
        "torch.fx.experimental.symbolic_shapes:_lru_cache",
        Use.CALLED,
        "trial lowering: a ShapeEnv's methods get caches of their own",
        "a ShapeEnv can be copied, with the symbolic sizes of a graph",
        _BOTH,
        {"f153135db117f6b4": "2.11 to 2.15"},
    ),
    Seam(
        "torch._subclasses.fake_tensor:FakeTensorMode.epoch",
        Use.SETTING,
        "trial lowering: fake tensors do not remember symbols that were made in it",
        "a ShapeEnv can be copied, with the symbolic sizes of a graph",
        _BOTH,
    ),
    Seam(
        "torch._dynamo.convert_frame:compile_lock",
        Use.SETTING,
        "trial lowering: no compile of another thread meanwhile",
        "Inductor compiles in several threads at once",
        _BOTH,
    ),
    Seam(
        "torch._dynamo.utils:counters",
        Use.SETTING,
        "trial lowering: what it counts is kept apart from what the process counts",
        "Inductor can be run without counting",
        _BOTH,
    ),
    Seam(
        "torch._inductor.metrics:ir_nodes_pre_fusion",
        Use.SETTING,
        "trial lowering: what it counts is kept apart from what the process counts",
        "Inductor can be run without counting",
        _BOTH,
    ),
    Seam(
        "torch._inductor.graph:_post_grad_graph_counter",
        Use.SETTING,
        "trial lowering: its graphs take no numbers from those of real compiles",
        "Inductor can be run without counting",
        _BOTH,
    ),
    Seam(
        "torch._inductor.scheduler:_post_grad_graph_counter",
        Use.SETTING,
        "trial lowering: its graphs take no numbers from those of real compiles",
        "Inductor can be run without counting",
        _BOTH,
    ),
    Seam(
        "torch.utils._config_module:_ConfigEntry",
        Use.SETTING,
        "settings are changed for one thread, which torch 2.11 does not do by itself",
        "no supported torch shares settings between threads",
        _BOTH,
    ),
    Seam(
        "torch._inductor.dependencies:MemoryDep.normalize",
        Use.CALLED,
        "the same read under other loops counts once",
        _CALLABLE,
        _BOTH,
        {"ce66be8890a3dcb3": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.dependencies:MemoryDep.is_indirect",
        Use.CALLED,
        "gathers are counted by accesses",
        _CALLABLE,
        _BOTH,
        {"ce66be8890a3dcb3": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.ir:MutationOutput.get_mutation_names",
        Use.CALLED,
        "the buffer that an extern kernel wrote into, of which it is the later name",
        _CALLABLE,
        _BOTH,
        {"ce66be8890a3dcb3": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.scheduler:BaseSchedulerNode.get_nodes",
        Use.CALLED,
        "what one kernel fuses",
        _CALLABLE,
        _BOTH,
        {"ce66be8890a3dcb3": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.scheduler:BaseSchedulerNode.get_outputs",
        Use.CALLED,
        "what one kernel writes, and for whom",
        _CALLABLE,
        _BOTH,
        {"ce66be8890a3dcb3": "2.11 to 2.15"},
    ),
)
