"""The record of an explanation as a file, with what is derived for readers without us."""

from __future__ import annotations

from typing import Any

from .base import Schema
from .explanation import Explanation
from .verdict import verdict_of

__all__ = ["EXPLANATION", "SUFFIX"]

#: What the name of a compressed record ends in.
SUFFIX = ".json.gz"


def _derived(found: Explanation) -> dict[str, Any]:
    """What the priced policy promises, the totals of every policy, and the verdict."""
    totals = {}
    for policy in found.policies:
        total = found.traffic(policy)
        totals[policy] = {
            "fused_kernels": total.kernels,
            "other_kernels": total.other_kernels,
            "read_bytes": total.read_bytes,
            "write_bytes": total.write_bytes,
            "bytes": total.bytes,
            "units": round(total.bytes / found.unit_bytes, 3) if found.unit_bytes else None,
            "bound_bytes": found.bound(policy),
            "predicted_seconds": found.predicted_seconds(policy),
            "seconds": found.seconds.get(policy),
        }
    # What names no policy has been damaged or made by hand; it is written as it is.
    verdict = verdict_of(found).as_json() if found.policies else None
    return {"numerics": found.numerics, "totals": totals, "verdict": verdict}


EXPLANATION = Schema(Explanation, "explanation", 2, _derived)
