"""Rates of the cost model, by device, as `benchmarks/fit.py --write` fitted them.

A device that is not here was not measured, and has no predicted time.  The rates hold for the
machine and torch that the files named in ``source`` say: "cpu" is an Intel Xeon of two threads
(an AMD EPYC of two threads, which the fit has not seen, is off by 4.2%; ``devices.cpu_at_hand``
says which processors count as that), "h200" one NVIDIA H200 as a whole.  A device says by
:attr:`.devices.Device.fitted` whether it may use any.
"""

from __future__ import annotations

from collections.abc import Mapping

from .cost import Load, Rates

__all__ = ["FITS"]

FITS: Mapping[str, Rates] = {
    "cpu": Rates(
        {
            "pointwise": Load(
                launches=1.22e-06,
                read=3.217e-11,
                reread=2.997e-11,
                write=3.083e-11,
                operations=2.589e-11,
                again=3.005e-11,
            ),
            "persistent": Load(
                launches=0.0,
                read=2.779e-11,
                reread=2.433e-11,
                write=2.386e-11,
                operations=2.27e-11,
                again=2.579e-11,
            ),
            "looped": Load(
                launches=7.585e-06,
                read=1.992e-11,
                reread=2.508e-11,
                write=2.11e-11,
                operations=2.286e-11,
                again=2.438e-11,
            ),
        },
        cache=314572800,
        call=0.0004852,
        source=(
            "bench-cpu-2026-11-26.json",
            "bench-cpu-2026-11-26-b.json",
            "bench-cpu-fused-2026-11-27.json",
            "bench-cpu-balanced-2026-11-27.json",
            "bench-cpu-geometries-2026-11-27.json",
            "bench-cpu-geometries-b-2026-11-27.json",
        ),
        error=0.026,
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
