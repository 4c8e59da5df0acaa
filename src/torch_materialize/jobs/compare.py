"""The main job: one model under several policies on one device, in bytes and kernels."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..core.devices import Device, find
from ..core.graph import Graph
from ..core.policy import STOCK, Policy, PolicyLike, parse
from ..errors import CaptureError, MaterializeError, brief
from ..results.comparison import CapturedGraph, Comparison
from ..versions import installed_versions

if TYPE_CHECKING:
    from ..inductor.fx.post_grad import PostGrad
    from ..inductor.plan.outcome import Outcome

__all__ = [
    "Clock",
    "Step",
    "beside_stock",
    "compare",
    "dry_run_of",
]

#: What ``compare`` calls before each step: the step's text, steps done, steps in all.
Step = Callable[[str, int, int], None]


def compare(
    target: str,
    policies: Sequence[PolicyLike],
    device: str = "h200",
    *,
    tokens: int = 8192,
    batch: int = 1,
    layers: int | None = None,
    tracing: str = "dynamo",
    step: Step = lambda _text, _done, _all: None,
) -> Comparison:
    """Captures ``target`` once and dry-runs it under each policy on ``device``.

    ``tokens``, ``batch`` and ``layers`` size the built-in models; ``tracing`` is ``dynamo``
    (the whole pipeline of ``torch.compile``) or ``make_fx`` (straight to a post-grad graph).

    Raises:
        TargetError: no such target or device, or the target does not import or build.
        CaptureError: the target cannot be traced or lowered.
        UnknownPolicyError: a policy is misspelt.
        UnsupportedTorchError: this torch cannot be dry-run.
    """
    chosen = list(beside_stock(policies))
    planned = find(device)
    # Imported here: until now nothing needed torch, and a misspelt word should answer fast.
    from ..inductor.contract import seams
    from ..inductor.offline import capture as capturing
    from ..models.targets import Size, load

    seams.require("compare")
    steps = 2 + len(chosen)
    clock = Clock()
    mode = capturing.fake_mode()
    step(f"building {target}", 0, steps)
    with clock("build"), mode:
        built = load(target, Size(tokens, batch, layers))
    step("capturing its graphs", 1, steps)
    with clock("capture"):
        graphs = capturing.capture_for(
            chosen,
            built.model,
            built.args,
            built.kwargs,
            planned,
            mode,
            tracing,
            compiler=built.compiler,
        )
    scheduled: list[dict[str, Graph]] = [{} for _ in graphs[chosen[0]]]
    bounds: list[dict[str, float]] = [{} for _ in graphs[chosen[0]]]
    for number, policy in enumerate(chosen):
        step(f"scheduling it under {policy}", 2 + number, steps)
        with clock(str(policy)):
            for index, graph in enumerate(graphs[policy]):
                outcome = dry_run_of(graph, policy, planned)
                scheduled[index][str(policy)] = outcome.graph
                if outcome.bound is not None:
                    bounds[index][str(policy)] = outcome.bound
    step("done", steps, steps)
    return Comparison(
        target=target,
        device=planned.name,
        tracing=tracing,
        unit_bytes=built.unit_bytes,
        policies=tuple(str(policy) for policy in chosen),
        graphs=tuple(
            CapturedGraph(g.nodes, s, b)
            for g, s, b in zip(graphs[chosen[0]], scheduled, bounds, strict=True)
        ),
        seconds=clock.seconds,
        versions=installed_versions(),
        size={"tokens": tokens, "batch": batch, "layers": layers},
    )


def beside_stock(policies: Sequence[PolicyLike]) -> tuple[Policy, ...]:
    """These policies, each once; stock before them where it is not among them.

    A policy held against itself says nothing.

    Raises:
        UnknownPolicyError: a policy is misspelt.
    """
    chosen = tuple(dict.fromkeys(parse(policy) for policy in policies))
    return chosen if STOCK in chosen else (STOCK, *chosen)


def dry_run_of(graph: PostGrad, policy: Policy, device: Device) -> Outcome:
    """One graph's kernels under a policy.

    Raises:
        CaptureError: Inductor cannot lower the graph; the cause is chained.
        MaterializeError: as for :func:`..inductor.offline.dry_run.dry_run`.
    """
    from ..inductor.offline.dry_run import dry_run

    try:
        return dry_run(graph, policy, device)
    except MaterializeError:
        raise
    except Exception as error:
        raise CaptureError(
            f"Inductor could not lower a graph of {graph.nodes} nodes for {device.name} under "
            f"{policy}: {brief(error)}"
        ) from error


class Clock:
    """Wall seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str) -> Clock:
        """What to enter to time a block under ``name``."""
        self._name = name
        return self

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *exc: object) -> None:
        self.seconds[self._name] = round(time.perf_counter() - self._start, 3)
