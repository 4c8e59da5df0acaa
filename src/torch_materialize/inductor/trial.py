"""Lowers and schedules a copy of a post-grad graph: real decisions, no code, no trace.

What Inductor would decide is not modelled here, it is asked: real lowering, real fusion, and
then everything that the run left behind is put back.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch._dynamo.convert_frame import compile_lock
from torch._inductor import config
from torch._inductor.virtualized import V
from torch.utils._ordered_set import OrderedSet

from ..core.dag import Dag
from ..core.graph import Graph
from ..core.policy import STOCK, Policy
from .apart import counting_apart
from .apply import mark, materializing, undecided
from .dag_reader import read_dag
from .pins import quiet
from .reader import read_scheduled
from .recording import Recording
from .reuse import MARK
from .settings import patched

__all__ = ["PostGrad", "copy_graph", "lowered", "run_lowering", "trial", "ungoverned_copy"]

# A dry run must not measure: there may be no device, and nobody asked for the time.
_QUIET = {
    "max_autotune": False,
    "max_autotune_gemm": False,
    "max_autotune_pointwise": False,
    "benchmark_fusion": False,
    "benchmark_epilogue_fusion": False,
    "benchmark_combo_kernel": False,
    "combo_kernels_autotune": 0,
    "trace.enabled": False,
}


@dataclass(frozen=True)
class PostGrad:
    """A post-grad graph with what lowering needs beside it.

    ``inputs`` are fake tensors on the (planned) device, in placeholder order.
    """

    module: torch.fx.GraphModule
    inputs: tuple[Any, ...]
    fake_mode: Any
    is_inference: bool = True
    is_backward: bool = False
    cpp_wrapper: bool = False
    aot_mode: bool = False

    @property
    def nodes(self) -> int:
        """Number of FX nodes."""
        return len(self.module.graph.nodes)


def trial(
    graph: PostGrad, store: frozenset[str] | None, policy: Policy = STOCK
) -> tuple[Graph, Dag]:
    """Lowers and schedules ``graph`` with exactly the nodes in ``store`` materialized.

    None takes the choice of ``policy``, whose hooks must be installed.  For use on the device
    at hand, or inside :func:`.virtual_gpu.planned_device`.
    """
    chosen = contextlib.nullcontext() if store is None else undecided()
    with chosen, lowered(graph, policy, Recording, store or frozenset()) as lowering:
        scheduled = read_scheduled()
        return scheduled, read_dag(lowering, scheduled)


def copy_graph(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """A copy with graphs of its own, subgraphs included; weights and constants are shared.

    A deep copy would clone those, which is dear, and fails where a fake mode is active.
    """
    copied = torch.fx.GraphModule(module, copy.deepcopy(module.graph))
    copied.meta = dict(module.meta)
    for name, child in module.named_children():
        if isinstance(child, torch.fx.GraphModule):
            setattr(copied, name, copy_graph(child))
    return copied


def ungoverned_copy(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """A :func:`copy_graph` without a policy: what is done to it is not planned again."""
    copied = copy_graph(module)
    for child in copied.modules():
        getattr(child, "meta", {}).pop(MARK, None)
    return copied


@contextlib.contextmanager
def lowered(
    graph: PostGrad, policy: Policy, lowering_class: Any, store: frozenset[str] = frozenset()
) -> Iterator[Any]:
    """A lowered and scheduled copy of ``graph``, inside its handler contexts."""
    module = ungoverned_copy(graph.module)
    if not policy.is_stock:
        module.meta[MARK] = policy
    mark(module, store)
    settings = {k: v for k, v in _QUIET.items() if k in config._config}
    with patched(settings), run_lowering(replace(graph, module=module), lowering_class) as one:
        one._update_scheduler()
        yield one


@contextlib.contextmanager
def run_lowering(graph: PostGrad, lowering_class: Any) -> Iterator[Any]:
    """A lowering of ``graph`` itself, run but not scheduled, inside its handler contexts.

    What it leaves behind in Inductor, Dynamo and the ShapeEnv is taken back in the end.
    """
    with contextlib.ExitStack() as stack:
        # As every compile of Dynamo's: much of Inductor is not made for two threads.
        stack.enter_context(compile_lock)
        stack.enter_context(counting_apart())
        stack.enter_context(quiet())
        stack.enter_context(V.set_fake_mode(graph.fake_mode))
        stack.enter_context(V.set_debug_handler(_Silent()))
        shape_env = graph.fake_mode.shape_env
        if shape_env is not None:
            # What a trial looks at must not become a guard of the user's program.
            stack.enter_context(shape_env.suppress_guards())
            stack.enter_context(_as_it_was(shape_env))
            # Its entries would hold symbols that are gone after the trial.
            stack.enter_context(mock.patch.object(graph.fake_mode, "cache_enabled", False))
        lowering = lowering_class(
            graph.module,
            example_inputs=graph.inputs,
            shape_env=shape_env,
            is_inference=graph.is_inference,
            is_backward=graph.is_backward,
            cpp_wrapper=graph.cpp_wrapper,
            aot_mode=graph.aot_mode,
        )
        stack.enter_context(V.set_graph_handler(lowering))
        stack.enter_context(V.set_extern_kernel_nodes([]))
        with materializing(lowering):
            lowering.run(*graph.inputs)
        yield lowering


@contextlib.contextmanager
def _as_it_was(shape_env: Any) -> Iterator[None]:
    """Takes back what lowering adds to a ShapeEnv: unbacked symbols, ranges, renamings.

    The counters that its caches go by grow, so that nothing cached is taken for what is now;
    the numbers of symbols do not start again, since fake tensors remember some.
    """
    kept = {name: copy.copy(value) for name, value in _state(shape_env)}
    try:
        yield
    finally:
        for name, value in _state(shape_env):
            before = kept.get(name)
            if value == before:
                continue
            if before is None or isinstance(value, int):
                setattr(shape_env, name, before)
            elif isinstance(value, list):
                value[:] = before
            else:
                value.clear()
                value.update(before)
        # What its caches go by.
        shape_env._update_version_counter()
        if hasattr(shape_env, "_replacements_version_counter"):  # torch 2.12 and later
            shape_env._replacements_version_counter += 1


def _state(shape_env: Any) -> list[tuple[str, Any]]:
    kinds = (dict, list, set, OrderedSet, int)
    return [
        (name, value)
        for name, value in vars(shape_env).items()
        if isinstance(value, kinds)
        and not isinstance(value, bool)
        and not name.endswith("_counter")
    ]


class _Silent:
    """Stands in for the debug handler, which only exists inside a real compile."""

    def __getattr__(self, _name: str) -> Any:
        return lambda *_args, **_kwargs: None
