"""Arguments of operators that may hold what a rank has for itself."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["ADDRESS", "is_own", "nameless"]

#: How Python prints where an object lies in memory.
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
# Where a rank's part of a table or of a sequence begins.  Of sizes, what matters is in the shape of
# the result.
_OWN = ("SymIntType", "NumberType", "TensorType")


def is_own(argument: Any) -> bool:
    """Whether an argument of an operator's schema is of a type that may hold such a value."""
    kind = argument.real_type
    while kind.kind() in ("OptionalType", "ListType"):
        kind = kind.getElementType()
    return kind.kind() in _OWN


def nameless(value: Any) -> Any:
    """The type of a number in its place."""
    return type(value).__name__ if isinstance(value, int | float | complex) else value
