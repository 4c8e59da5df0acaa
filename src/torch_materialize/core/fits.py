"""Rates of the cost model, by device, as `benchmarks/fit.py --write` fitted them.

A device that is not here was not measured, and has no predicted time.  The rates hold for the
machine and torch that the files named in ``source`` say.
"""

from __future__ import annotations

from collections.abc import Mapping

from .cost import Rates

__all__ = ["FITS"]

FITS: Mapping[str, Rates] = {}
