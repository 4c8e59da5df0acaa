"""The trial lowering of what ships, handed to the compile, so that it is not lowered again.

A search ends with a decision of which it has made a trial lowering: the same graph, prepared alike,
lowered and scheduled by upstream.  The compile would do all of that once more.  Instead the
``GraphLowering`` that it has just made takes over the state of the trial: what its ``run`` and the
first ``_update_scheduler`` would have made is there, and these two have nothing left to do.

Only where a trial lowering is a real one in all that counts: no size is symbolic (a trial learns
about sizes on a copy of the ShapeEnv), no setting was changed for it, no operator has a body to be
planned, no pin is to be reported, no log and no pass of a program's looks at what is scheduled, and
this torch does with a lowering what those do that we have read (rows ``handover`` of
:mod:`..contract.table`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
import torch._inductor.debug
import torch._inductor.scheduler
from torch._inductor import config, ir
from torch._inductor.graph import GraphLowering
from torch._inductor.sizevars import SizeVarAllocator

from ..contract import seams
from ..fx.decision import Decision
from ..fx.rounding import exact_casts
from ..read.pin_nodes import is_pin
from ..read.recording import Recording
from ..read.static_sizes import is_static
from .counters import Sheet

__all__ = ["COUNTED", "Handover", "changed_settings", "finished"]

# A trial lowering must not measure: there may be no device, and it would take time.  Nor does it
# write into a debug folder.
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
# What settings have to be for a trial lowering to be what a compile would lower.  Two of those
# above are on by default, and change templates and combo kernels alone.  A program's passes on what
# is scheduled may keep what they see.
_USUAL = _QUIET | {
    "benchmark_epilogue_fusion": True,
    "combo_kernels": False,
    "combo_kernels_autotune": 1,
    "_pre_fusion_custom_pass": None,
    "_post_fusion_custom_pass": None,
}
# Arguments of a lowering whose code is generated otherwise.
_OTHER_CODE = ("cpp_wrapper", "aot_mode", "fx_wrapper")
#: Attribute of a trial lowering: what it has counted.
COUNTED = "_torch_materialize_counted"
# What a compile gives to its own lowering, or draws for it.
_THE_COMPILES = ("example_inputs", "post_grad_graph_id", "creation_time")
# What a trial lowering has besides.
_THE_TRIALS = ("results", "early", "_update_scheduler", COUNTED)
# It skips casts that lose nothing, where there are any.
_EAGER = "eager"
# Attribute of a lowering that has been made already: what it counted, and the compile's graph.
_FINISHED = "_torch_materialize_finished"


def changed_settings() -> dict[str, Any]:
    """Inductor's settings that a trial lowering changes, and what it sets them to."""
    return {name: value for name, value in _QUIET.items() if name in config._config}


@dataclass
class Handover:
    """Trial lowerings of one graph that its compile may take over, by what they were made of.

    To be made, and asked, where the compile makes its lowering: the settings there are what counts.

    Attributes:
        arguments: those of the compile's lowering, by name, without the graph.
    """

    arguments: Mapping[str, Any]
    _made: dict[tuple[Decision, bool], Recording] = field(default_factory=dict)

    def __post_init__(self) -> None:
        there = {name: value for name, value in _USUAL.items() if name in config._config}
        changed = any(getattr(config, name) != value for name, value in there.items())
        other = any(self.arguments.get(name) for name in _OTHER_CODE)
        self._is_open = not (changed or other or _is_looked_at() or seams.check("handover"))

    def offer(
        self, module: torch.fx.GraphModule, decision: Decision, numerics: str, made: Recording
    ) -> None:
        """Keeps a trial lowering of ``module`` if it may ship; to be called inside its ShapeEnv.

        What was recorded of it besides must have been read.
        """
        given = self.arguments["shape_env"]
        # Without one a lowering makes its own.
        is_the_same = given is made._shape_env or (given is None and not made.reuse_shape_env)
        if not self._is_open or not is_the_same or not is_static(made._shape_env):
            return
        inner = any(isinstance(child, torch.fx.GraphModule) for child in module.children())
        templates = any(isinstance(one, ir.TemplateBuffer) for one in made.operations)
        if inner or templates or any(map(is_pin, module.graph.nodes)):
            return
        made.results, made.early = {}, set()  # they hold values that the lowering itself lets go
        self._made[_key(decision, numerics)] = made
        if not exact_casts(module):
            self._made[_key(decision, _EAGER)] = made

    def keep(self, decisions: Iterable[Decision], numerics: str) -> None:
        """Drops the lowerings of all other decisions: each holds the IR of the whole graph."""
        keys = {_key(one, numerics) for one in decisions}
        self._made = {key: made for key, made in self._made.items() if key in keys}

    def take(self, lowering: GraphLowering, decision: Decision, numerics: str) -> bool:
        """Makes of the compile's lowering, not run yet, the trial lowering of ``decision``.

        Whether there was one.
        """
        made = self._made.get(_key(decision, numerics))
        if made is None:
            return False
        state = {name: value for name, value in vars(made).items() if name not in _THE_TRIALS}
        state |= {name: vars(lowering)[name] for name in _THE_COMPILES}
        state[_FINISHED] = vars(made)[COUNTED], lowering.module
        state["_update_scheduler"] = _once(lowering)
        state["sizevars"].__class__ = SizeVarAllocator
        numbers = torch._inductor.scheduler._post_grad_graph_counter
        state["scheduler"].post_grad_graph_id = next(numbers)
        # One dict for both: what refers to the trial lowering then refers to the compile's.
        made.__dict__ = lowering.__dict__ = state
        self._made = {}
        return True


def finished(lowering: GraphLowering) -> torch.fx.GraphModule | None:
    """The compile's graph of a lowering that was taken over, whose ``run`` is to do nothing.

    What the trial lowering counted is counted by this.  None where it has to run.
    """
    taken: tuple[Sheet, torch.fx.GraphModule] | None = vars(lowering).pop(_FINISHED, None)
    if taken is None:
        return None
    counted, module = taken
    counted.count()
    return module


def _is_looked_at() -> bool:
    """Whether somebody follows what is scheduled: the last of it has to be what ships."""
    logs = torch._inductor.debug.ir_pre_fusion_log, torch._inductor.debug.ir_post_fusion_log
    logged = any(log.isEnabledFor(logging.INFO) for log in logs)
    return logged or any(map(callable, config.reorder_for_compute_comm_overlap_passes))


def _key(decision: Decision, numerics: str) -> tuple[Decision, bool]:
    """What a graph is prepared by: of a policy's numerics only one changes what is lowered."""
    parts = {one.name: getattr(decision, one.name) for one in fields(Decision)}
    return Decision(**parts), numerics == _EAGER


def _once(lowering: GraphLowering) -> Any:
    """A method that schedules as upstream's, but for the first time: that is done."""
    done: list[bool] = []

    def _update_scheduler() -> None:
        if done:
            GraphLowering._update_scheduler(lowering)
        done.append(True)

    return _update_scheduler
