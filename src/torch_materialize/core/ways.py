"""The ways in which `agree` runs a model: names and what each is, without loading torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from .devices import HERE

__all__ = ["AGREEING", "ANY", "CUTS", "CUT_NAMES", "PIECES", "RUNS_ON", "WHOLE"]

#: The two ways to compile a model: one graph for each of Dynamo's, or several.
WHOLE, PIECES = "whole", "pieces"

#: Ways to cut a model: name -> what stands alone, run as eager runs it, or where pieces end.
CUTS: Mapping[str, str] = MappingProxyType(
    {
        "attention": "attention and custom operators stand alone",
        "matmul": "matmuls, convolutions, attention and custom operators stand alone",
        "layers": "each repeated layer is one",
    }
)

#: The first of :data:`CUTS` that makes more than one piece of a model.
ANY = "any"
CUT_NAMES = (ANY, *CUTS)

#: Policies that are run beside stock where none is named.
AGREEING = ("plan", "plan:numerics=eager")

#: Devices that a model can be run on, the default first.
RUNS_ON = ("cpu", *HERE)
