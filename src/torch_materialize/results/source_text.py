"""The text of the lines of model code that tensors come from."""

from __future__ import annotations

import linecache
from collections.abc import Iterable

from .explanation import ExplainedGraph

__all__ = ["lines_of"]


def lines_of(graphs: Iterable[ExplainedGraph]) -> dict[str, str]:
    """``file:line`` -> the text of that line, without its indentation.

    Of every fact's source whose file can be read here and now: a record may be read where the
    model's code is not.
    """
    found: dict[str, str] = {}
    for graph in graphs:
        for fact in graph.facts.values():
            if fact.source and fact.source not in found:
                path, _, number = fact.source.rpartition(":")
                text = linecache.getline(path, int(number)) if number.isdigit() else ""
                found[fact.source] = text.strip()
    return {source: found[source] for source in sorted(found) if found[source]}
