"""The main job: one model under several policies on one device, in bytes and kernels."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .core.devices import Device, find
from .core.graph import Graph, Kernel
from .core.policy import STOCK, Policy, parse
from .core.traffic import Difference, Traffic, differences, most_read, traffic
from .errors import CaptureError, MaterializeError, brief
from .versions import installed_versions

if TYPE_CHECKING:
    from .inductor.dry_run import Outcome
    from .inductor.post_grad import PostGrad

__all__ = [
    "CapturedGraph",
    "Clock",
    "Comparison",
    "Step",
    "beside_stock",
    "compare",
    "dry_run_of",
]

#: What ``compare`` calls before each step: the step's text, steps done, steps in all.
Step = Callable[[str, int, int], None]


@dataclass(frozen=True)
class CapturedGraph:
    """One post-grad graph (of several, where Dynamo breaks) and its kernels per policy.

    ``bounds`` holds certified lower bounds in bytes, for the policies that have one.
    """

    nodes: int
    scheduled: Mapping[str, Graph]
    bounds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` found; every view and the JSON record are made from this alone.

    Attributes:
        unit_bytes: size of one activation in bytes, 0 where the target has no such unit.
        seconds: wall time by step: ``build``, ``capture``, and each policy's name.
        versions: package -> installed version.
    """

    target: str
    device: str
    tracing: str
    unit_bytes: int
    policies: tuple[str, ...]
    graphs: tuple[CapturedGraph, ...]
    seconds: Mapping[str, float]
    versions: Mapping[str, str]
    size: Mapping[str, int | None] = field(default_factory=dict)

    def traffic(self, policy: str) -> Traffic:
        """Bytes and launches of all graphs under one policy."""
        total = Traffic(0, 0, 0, 0)
        for graph in self.graphs:
            total += traffic(graph.scheduled[policy])
        return total

    def bound(self, policy: str) -> float | None:
        """Certified lower bound of all graphs in bytes; None where a policy has none."""
        bounds = [graph.bounds.get(policy) for graph in self.graphs]
        known = [bound for bound in bounds if bound is not None]
        return sum(known) if known and len(known) == len(bounds) else None

    def most_read(self, policy: str, limit: int) -> list[Kernel]:
        """The fused kernels that read the most bytes under one policy."""
        return most_read((g.scheduled[policy] for g in self.graphs), limit)

    def differences(self) -> list[Difference]:
        """Tensors that some policy decides otherwise than the first one, largest first."""
        found = [d for g in self.graphs for d in differences(g.scheduled, self.policies[0])]
        return sorted(found, key=lambda d: (-d.tensor.bytes, d.node))


def compare(
    target: str,
    policies: Sequence[str | Policy],
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
    from .inductor import capture as capturing
    from .inductor import seams
    from .models.targets import Size, load

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


def beside_stock(policies: Sequence[str | Policy]) -> tuple[Policy, ...]:
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
        MaterializeError: as for :func:`.inductor.dry_run.dry_run`.
    """
    from .inductor.dry_run import dry_run

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
