"""Rates of the cost model, by device, as `benchmarks/fit.py --write` fitted them.

A device that is not here was not measured, and has no predicted time.  The rates hold for the
machine and torch that the files named in ``source`` say.
"""

from __future__ import annotations

from collections.abc import Mapping

from .cost import Load, Rates

__all__ = ["FITS"]

FITS: Mapping[str, Rates] = {
    "cpu": Rates(
        {
            "pointwise": Load(
                launches=8.259e-06,
                read=2.876e-11,
                reread=2.662e-11,
                write=2.77e-11,
                operations=1.093e-11,
            ),
            "persistent": Load(
                launches=9.857e-06,
                read=3.281e-11,
                reread=2.725e-11,
                write=2.758e-11,
                operations=9.993e-12,
            ),
            "looped": Load(
                launches=9.421e-06,
                read=2.041e-11,
                reread=2.694e-11,
                write=2.172e-11,
                operations=9.563e-12,
            ),
        },
        cache=33554432,
        call=0.0002317,
        source=("bench-cpu-fit-a-2026-11-25.json", "bench-cpu-fit-b-2026-11-25.json"),
        error=0.133,
    ),
    "h200": Rates(
        {
            "pointwise": Load(
                launches=1.525e-06,
                read=1.14e-13,
                reread=1.464e-13,
                write=3.138e-13,
                operations=1.842e-14,
            ),
            "persistent": Load(
                launches=2.235e-06,
                read=2.127e-13,
                reread=2.752e-13,
                write=3.804e-13,
                operations=4.617e-14,
            ),
            "looped": Load(
                launches=2.012e-06,
                read=2.643e-13,
                reread=1.703e-13,
                write=1.489e-13,
                operations=3.583e-14,
            ),
        },
        cache=62914560,
        call=0.0,
        source=("bench-h200-fused-b-2026-11-26.json",),
        error=0.109,
    ),
}
