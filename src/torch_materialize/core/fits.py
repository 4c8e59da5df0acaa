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
                launches=1.081e-05,
                read=1.73e-11,
                reread=1.703e-11,
                write=1.704e-11,
                operations=1.533e-11,
                again=1.699e-11,
            ),
            "persistent": Load(
                launches=1.096e-05,
                read=1.706e-11,
                reread=1.651e-11,
                write=1.651e-11,
                operations=1.517e-11,
                again=1.614e-11,
            ),
            "looped": Load(
                launches=1.094e-05,
                read=1.633e-11,
                reread=1.691e-11,
                write=1.621e-11,
                operations=1.515e-11,
                again=1.643e-11,
            ),
        },
        cache=33554432,
        call=0.0002,
        source=("bench-cpu-fit-a-2026-11-25.json", "bench-cpu-fit-b-2026-11-25.json"),
        error=0.038,
        overlap=False,
    ),
    "h200": Rates(
        {
            "pointwise": Load(
                launches=1.586e-06,
                read=1.982e-13,
                reread=2.221e-13,
                write=2.8e-13,
                operations=2.336e-14,
                again=1.01e-13,
            ),
            "persistent": Load(
                launches=2.305e-06,
                read=1.998e-13,
                reread=2.007e-13,
                write=2.016e-13,
                operations=2.271e-14,
                again=1.001e-13,
            ),
            "looped": Load(
                launches=2.326e-06,
                read=1.983e-13,
                reread=1.989e-13,
                write=1.967e-13,
                operations=2.327e-14,
                again=9.864e-14,
            ),
        },
        cache=62914560,
        call=0.0,
        source=("bench-h200-fused-c-2026-11-27.json", "bench-h200-d-2026-11-27.json"),
        error=0.06,
        overlap=True,
    ),
}
