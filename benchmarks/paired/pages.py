"""Freed memory is kept, as allocators for inference keep it (jemalloc, tcmalloc, CUDA's cache).

glibc gives a large buffer back to the system as soon as it is freed, and the next one arrives as
untouched pages: each step then mostly times the system zeroing pages, four kilobytes at a time,
and a kernel that writes a buffer pays for it where one that reads does not.
"""

from __future__ import annotations

import ctypes

__all__ = ["keep_pages"]

# From malloc.h: parameter and value.
_TRIM_THRESHOLD = (-1, 2**31 - 1)
_MMAP_MAX = (-4, 0)


def keep_pages() -> bool:
    """Has the C library keep what is freed; False where it cannot be asked (no glibc)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all(mallopt(*setting) == 1 for setting in (_TRIM_THRESHOLD, _MMAP_MAX))
