"""What `ablation` and `search-cost` plan: graphs captured for a device.

They are of the corpus, whose models have two layers or a few, or of built-in models with all.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any

import torch

from torch_materialize.sweep.measure import captured
from torch_materialize.sweep.rows import Job, Settings


def models(
    chosen: Any, done: Container[tuple[str, str]]
) -> Iterator[Iterator[tuple[dict[str, Any], Any]]]:
    """For each model and mode that is not ``done``: its graphs, each with the start of its row."""
    torch.set_num_threads(1)
    settings = Settings(chosen.device, ("plan",), ("inference", "forward", "backward"))
    for name in chosen.names:
        for mode in chosen.mode or ["inference", "training"]:
            if (name, mode) not in done:
                package = "" if chosen.built_in else "corpus"
                yield _rows(Job(name, "", mode, package), settings)


def _rows(job: Job, settings: Settings) -> Iterator[tuple[dict[str, Any], Any]]:
    for index, graphs in enumerate(captured(job, settings)):
        graph = next(iter(graphs.values()))
        if graph.nodes >= settings.smallest_nodes:
            row = {"name": job.name, "mode": job.mode, "index": index, "device": settings.device}
            yield row | {"nodes": graph.nodes}, graph
