"""Checks the table of upstream objects (:mod:`.table`); tests and ``doctor`` read it here.

A torch is supported when every row that a feature needs is there and has a known digest; no
version number is compared anywhere.

``python -m torch_materialize.inductor.contract.seams`` prints the digests of the installed torch,
for whoever has read what changed and appends them to the table.
"""

from __future__ import annotations

import functools
import sys

import torch

from ...errors import Mismatch, UnsupportedTorchError
from .seam import OURS, Seam, Use
from .table import SEAMS

__all__ = ["OURS", "SEAMS", "Seam", "Use", "by_path", "check", "require"]


@functools.cache
def _index() -> dict[str, Seam]:
    return {seam.path: seam for seam in SEAMS}


def by_path(path: str) -> Seam:
    """The row of one object.

    Raises:
        KeyError: the table has no such row.
    """
    return _index()[path]


def check(feature: str) -> list[Mismatch]:
    """Every mismatch among the rows that ``feature`` needs; empty when it can work."""
    found = (seam.check() for seam in SEAMS if feature in seam.features)
    return [mismatch for mismatch in found if mismatch is not None]


def require(feature: str) -> None:
    """Checks that this torch can do what ``feature`` needs.

    Raises:
        UnsupportedTorchError: it cannot; the error lists every object that stands in the way.
    """
    mismatches = check(feature)
    if mismatches:
        raise UnsupportedTorchError(mismatches, torch.__version__)


def _print_digests() -> None:
    for seam in SEAMS:
        try:
            digest = seam.digest()
        except (ImportError, AttributeError) as error:
            digest = f"missing: {error}"
        if digest:
            sys.stdout.write(f"{torch.__version__}\t{seam.path}\t{digest}\n")


if __name__ == "__main__":
    _print_digests()
