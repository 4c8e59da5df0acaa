"""The text of the lines of model code that tensors come from."""

from __future__ import annotations

import linecache
import os
from collections.abc import Iterable

from .explanation import ExplainedGraph

__all__ = ["lines_of", "relative_source", "text_at"]


def lines_of(graphs: Iterable[ExplainedGraph]) -> dict[str, str]:
    """``file:line`` -> the text of that line, without its indentation.

    Of every fact's source whose file can be read here and now: a record may be read where the
    model's code is not.
    """
    found: dict[str, str] = {}
    for graph in graphs:
        for fact in graph.facts.values():
            if fact.source and fact.source not in found:
                found[fact.source] = text_at(fact.source)
    return {source: found[source] for source in sorted(found) if found[source]}


def text_at(source: str) -> str:
    """The text of the line ``file:line``, without its indentation; "" where it cannot be read."""
    path, _, number = source.rpartition(":")
    linecache.checkcache(path)
    return linecache.getline(path, int(number)).strip() if number.isdigit() else ""


def relative_source(source: str) -> str:
    """``file:line`` as it is called from the working folder, if it is in there.

    So that a file that is kept says the same wherever a checkout is.
    """
    return source.removeprefix(os.path.join(os.getcwd(), ""))
