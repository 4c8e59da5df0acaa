"""The child process of a sweep: one model in one mode, lowered on trial under each policy.

What was measured is written after every graph, so that a crash or a time limit later on costs
only the rest.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..core.memory import peak_bytes
from ..core.policy import Policy, parse
from ..core.saving import kept_bytes
from ..core.story import gap_parts
from ..core.traffic import traffic
from ..errors import MaterializeError, brief
from ..inductor.offline import capture as capturing
from ..inductor.offline.dry_run import dry_run, verified
from ..inductor.partition.kept import kept_by
from ..inductor.read.at_hand import device_named
from ..results.base import convert, write_json, write_whole
from .collection import graph_name
from .rows import GraphRow, Job, Measured, Request, Settings
from .spec import Kind

if TYPE_CHECKING:
    from ..inductor.fx.post_grad import PostGrad

__all__ = ["captured", "main", "measure"]


def main() -> None:
    """Measures what ``sys.argv[1]`` says, and writes it to the file that it names.

    The one is a :class:`.rows.Request`, the other a :class:`.rows.Measured`.
    """
    request = convert(json.loads(sys.argv[1]), Request, "request")
    graphs: list[GraphRow] = []
    errors: list[str] = []

    def write(done: bool) -> None:
        found = Measured(tuple(graphs), tuple(errors), done)
        write_json(Path(request.output), asdict(found))

    # The parent runs one child for each core.
    torch.set_num_threads(1)
    torch.manual_seed(request.settings.seed)
    random.seed(request.settings.seed)
    try:
        for measured in measure(request.job, request.settings, request.dump):
            if isinstance(measured, GraphRow):
                graphs.append(measured)
            else:
                errors.append(measured)
            write(done=False)
    except Exception as error:  # noqa: BLE001 - it becomes a row of the sweep
        errors.append(str(error) if isinstance(error, MaterializeError) else brief(error))
    write(done=True)


def measure(job: Job, settings: Settings, dump: str = "") -> Iterator[GraphRow | str]:
    """A row for each graph that is large enough; a text for one that could not be lowered.

    ``dump`` is a folder in which each is left as text.

    Raises:
        CaptureError: the model cannot be traced.
        Exception: whatever its package raises while it is built.
    """
    counts: dict[Kind, int] = {}
    for graphs in captured(job, settings):
        graph = next(iter(graphs.values()))
        kind: Kind = (
            "inference" if graph.is_inference else "backward" if graph.is_backward else "forward"
        )
        index = counts.get(kind, 0)
        counts[kind] = index + 1
        if graph.nodes < settings.smallest_nodes or kind not in settings.kinds:
            continue
        try:
            if dump:
                _dump(graph, job, kind, index, Path(dump))
            yield from _measured(job, kind, index, graphs, settings)
        except Exception as error:  # noqa: BLE001 - the model's other graphs are still measured
            yield f"{kind} graph {index} of {graph.nodes} nodes: {brief(error)}"


def _dump(graph: PostGrad, job: Job, kind: Kind, index: int, folder: Path) -> None:
    from ..inductor.offline.fx_writing import text_of

    write_whole(folder / graph_name(job.name, kind, index), text_of(graph).encode())


def captured(job: Job, settings: Settings) -> list[dict[Policy, PostGrad]]:
    """Each graph of the model, for each policy.

    Raises:
        CaptureError: the model cannot be traced, or a captured graph not be read.
    """
    device = device_named(settings.device)
    policies = [parse(policy) for policy in settings.policies]
    if job.path:
        from .collected import collected

        return collected(Path(job.path), policies, device, settings.tracing)
    if not job.package:
        from ..models.names import Size
        from ..models.targets import load

        mode = capturing.fake_mode()
        with mode:
            built = load(job.name, Size(settings.tokens, settings.batch, settings.layers))
        graphs = capturing.capture_for(
            policies,
            built.model,
            built.args,
            built.kwargs,
            device,
            mode,
            settings.tracing,
            training=job.mode == "training",
            dynamic=False,
            compiler=built.compiler,
        )
        return _by_graph(graphs)
    from .construct import build, zeros_mode
    from .registry import find

    mode = zeros_mode()
    module, args, kwargs = build(find(job.name), job.mode, mode)
    training = job.mode == "training"
    graphs = capturing.capture_for(
        policies,
        module,
        args,
        kwargs,
        device,
        mode,
        settings.tracing,
        training=training,
        dynamic=False,
    )
    return _by_graph(graphs)


def _by_graph(graphs: dict[Policy, list[PostGrad]]) -> list[dict[Policy, PostGrad]]:
    return [dict(zip(graphs, row, strict=True)) for row in zip(*graphs.values(), strict=True)]


def _kept(graphs: dict[str, PostGrad]) -> dict[str, int]:
    kept = kept_by(graphs)
    found = {policy: kept_bytes(kept, policy) for policy in graphs}
    return {policy: size for policy, size in found.items() if size is not None}


def _measured(
    job: Job, kind: Kind, index: int, graphs: dict[Policy, PostGrad], settings: Settings
) -> Iterator[GraphRow | str]:
    """A graph's row and, where that is wanted, a text for each plan that does not ship so."""
    device = device_named(settings.device)
    moved: dict[str, int] = {}
    kernels: dict[str, int] = {}
    bounds: dict[str, float] = {}
    seconds: dict[str, float] = {}
    peaks: dict[str, int] = {}
    gaps: dict[str, dict[str, int]] = {}
    left: dict[str, str] = {}
    problems: list[str] = []
    for chosen, graph in graphs.items():
        policy = str(chosen)
        start = time.perf_counter()
        outcome = dry_run(graph, chosen, device)
        seconds[policy] = round(time.perf_counter() - start, 3)
        total = traffic(outcome.graph).times(graph.calls)
        moved[policy], kernels[policy] = total.bytes, total.kernels
        peaks[policy] = peak_bytes(outcome.dag, outcome.dag.homes())
        if outcome.left_to_stock:
            left[policy] = outcome.left_to_stock
        if outcome.bound is not None:
            bounds[policy] = outcome.bound * graph.calls
            found = outcome.found
            why = (found.refused, found.unfused * graph.calls) if found is not None else ((), 0)
            gaps[policy] = gap_parts(total.bytes, bounds[policy], *why)
        if settings.verify and outcome.found is not None:
            problem = verified(graph, chosen, device, outcome.found)
            problems += [f"{kind} graph {index} under {policy}: {problem}"] if problem else []
    yield GraphRow(
        name=job.name,
        family=job.family,
        kind=kind,
        index=index,
        nodes=next(iter(graphs.values())).nodes,
        bytes=moved,
        kernels=kernels,
        bounds=bounds,
        seconds=seconds,
        peaks=peaks,
        kept=_kept({str(policy): graph for policy, graph in graphs.items()}),
        gaps=gaps,
        left=left,
    )
    yield from problems
