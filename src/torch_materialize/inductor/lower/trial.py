"""Lowers and schedules a copy of a post-grad graph: real decisions, no code, no trace.

The copy is prepared as the graph itself would be, its roundings included: what a trial measures is
what a decision ships.

What Inductor would decide is not modelled: it really lowers and fuses the copy, and then
everything that this left behind is put back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch._dynamo.convert_frame import compile_lock
from torch._inductor.virtualized import V

from ...core.dag import Dag
from ...core.graph import Graph
from ...core.policy import STOCK, Policy
from ...errors import LeftToStockError, brief
from ..fx.decision import NO_CHANGE, Decision, prepare
from ..fx.policy_mark import POLICY_KEY
from ..fx.post_grad import PostGrad, ungoverned_copy
from ..read.dag import read_dag
from ..read.kernels import read_scheduled
from ..read.recording import Recording
from .counters import counting_apart
from .handover import COUNTED, changed_settings
from .outer_loops import keep_outer_loops_apart
from .pairs import pairs_to_compare
from .pins import quiet
from .realize import choosing, realizing
from .settings import patched
from .shapes import scratch_shapes

__all__ = [
    "LoweringError",
    "TooManyPairs",
    "lowered",
    "run_lowering",
    "trial",
]


class TooManyPairs(LeftToStockError):
    """Scheduling a graph once takes so long that no plan for it should be looked for."""

    def __init__(self, pairs: int, most: int) -> None:
        super().__init__(
            f"Inductor compares {pairs} pairs of kernels each time it schedules this graph, and a "
            f"search schedules it several times: it is left to stock (limit: {most} pairs)."
        )


class LoweringError(Exception):
    """Inductor could not lower or schedule a graph; the cause is chained.

    Whether it is ours to mend is not known here: stock's own lowering may fail as well.
    """


def trial(
    graph: PostGrad,
    decision: Decision = NO_CHANGE,
    *,
    numerics: str = "",
    policy: Policy = STOCK,
    most_pairs: int | None = None,
) -> tuple[Graph, Dag]:
    """Lowers and schedules a copy of ``graph``, prepared for ``decision``.

    ``numerics`` is the policy's; where ``decision`` leaves the choice open, ``policy`` makes
    it, whose hooks must be installed.  For use on the device at hand, or inside
    :func:`.virtual_gpu.planned_device`.

    Raises:
        LoweringError: Inductor cannot lower the graph so.
        TooManyPairs: scheduling it would compare more than ``most_pairs`` pairs of kernels.
    """
    with lowered(graph, decision, numerics, policy, Recording, most_pairs) as lowering:
        scheduled = read_scheduled()
        dag = read_dag(lowering, scheduled)
        if graph.handover is not None and policy.is_stock:
            graph.handover.offer(graph.module, decision, numerics, lowering)
        return scheduled, dag


@contextlib.contextmanager
def lowered(
    graph: PostGrad,
    decision: Decision,
    numerics: str,
    policy: Policy,
    lowering_class: Any,
    most_pairs: int | None = None,
) -> Iterator[Any]:
    """A lowered and scheduled copy of ``graph``, inside its handler contexts.

    Raises:
        LoweringError, TooManyPairs: as for :func:`trial`.
    """
    module = ungoverned_copy(graph.module)
    if not policy.is_stock:
        module.meta[POLICY_KEY] = policy
    prepare(module, decision, numerics)
    for body in module.modules():
        # Bodies have no plan in a trial of the graph around them, which sees one opaque call.
        if body is not module and isinstance(body, torch.fx.GraphModule):
            prepare(body, NO_CHANGE, numerics)
    with (
        patched(changed_settings()),
        choosing(decision),
        run_lowering(replace(graph, module=module), lowering_class) as one,
    ):
        if decision.changes or not policy.is_stock:
            keep_outer_loops_apart(one)
        if most_pairs is not None:
            with _upstreams():
                pairs = pairs_to_compare(one)
            if pairs > most_pairs:
                raise TooManyPairs(pairs, most_pairs)
        with _upstreams():
            one._update_scheduler()
        yield one


@contextlib.contextmanager
def run_lowering(graph: PostGrad, lowering_class: Any) -> Iterator[Any]:
    """A lowering of ``graph`` itself, run but not scheduled, inside its handler contexts.

    What it leaves behind in Inductor, Dynamo and the ShapeEnv is taken back in the end.

    Raises:
        LoweringError: Inductor cannot lower the graph.
    """
    with contextlib.ExitStack() as stack:
        # As every compile of Dynamo's: much of Inductor is not made for two threads.
        stack.enter_context(compile_lock)
        counted = stack.enter_context(counting_apart())
        stack.enter_context(quiet())
        stack.enter_context(V.set_fake_mode(graph.fake_mode))
        stack.enter_context(V.set_debug_handler(_Silent()))
        if graph.fake_mode.shape_env is not None:
            stack.enter_context(scratch_shapes(graph.fake_mode))
            # Its entries would hold symbols that are gone after the trial.
            stack.enter_context(mock.patch.object(graph.fake_mode, "cache_enabled", False))
        given = {
            "example_inputs": graph.inputs,
            "shape_env": graph.fake_mode.shape_env,
            "is_inference": graph.is_inference,
            "is_backward": graph.is_backward,
            "cpp_wrapper": graph.cpp_wrapper,
            "aot_mode": graph.aot_mode,
        }
        if graph.handover is not None:
            given = {**graph.handover.arguments, **given}
        with _upstreams():
            lowering = lowering_class(graph.module, **given)
        setattr(lowering, COUNTED, counted)
        stack.enter_context(V.set_graph_handler(lowering))
        stack.enter_context(V.set_extern_kernel_nodes([]))
        with _upstreams(), realizing(lowering):
            lowering.run(*graph.inputs)
        yield lowering


@contextlib.contextmanager
def _upstreams() -> Iterator[None]:
    """Tells what Inductor raises from what we do."""
    try:
        yield
    except Exception as error:
        raise LoweringError(brief(error)) from error


class _Silent:
    """Stands in for the debug handler, which only exists inside a real compile."""

    def __getattr__(self, _name: str) -> Any:
        return lambda *_args, **_kwargs: None
