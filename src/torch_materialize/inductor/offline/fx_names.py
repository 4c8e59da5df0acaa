"""What the text of a captured graph may name: operators, dtypes, and functions of sizes."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch

__all__ = ["CALLED", "is_operator", "known_name"]

# Functions that a printed graph may call beside operators, by module.  Nothing else is reached, so
# that a file from anywhere can be read: it can name no function that does more than compute.
_FUNCTIONS: dict[str, frozenset[str]] = {
    "math": frozenset({"ceil", "floor", "sqrt", "trunc"}),
    "operator": frozenset(
        {
            "add",
            "and_",
            "eq",
            "floordiv",
            "ge",
            "getitem",
            "gt",
            "le",
            "lt",
            "mod",
            "mul",
            "ne",
            "neg",
            "not_",
            "or_",
            "pow",
            "sub",
            "truediv",
        }
    ),
}
_MODULES = {"math": math, "operator": operator}
_SIZES = frozenset(name for name in dir(torch) if name.startswith("sym_"))
#: Names of all of those functions.
CALLED = frozenset().union(*_FUNCTIONS.values(), _SIZES)


def known_name(path: list[str]) -> Any:
    """The operator, dtype or function of sizes that a dotted name means; None for any other."""
    module, rest = path[0].removeprefix("_"), path[1:]
    if module in _FUNCTIONS and len(rest) == 1 and rest[0] in _FUNCTIONS[module]:
        return getattr(_MODULES[module], rest[0])
    if module != "torch" or any(part.startswith("__") for part in rest):
        return None
    if rest[:1] != ["ops"]:
        value = getattr(torch, rest[0], None) if len(rest) == 1 else None
        plain = isinstance(value, torch.dtype | torch.layout | torch.memory_format)
        return value if plain or value is torch.device or rest[0] in _SIZES else None
    value = torch.ops
    for part in rest[1:]:
        try:
            value = getattr(value, part)
        except (AttributeError, RuntimeError):
            return None
    return value if is_operator(value) else None


def is_operator(value: Any) -> bool:
    """Whether a value is an operator of torch's."""
    return isinstance(value, torch._ops.OpOverload | torch._ops.HigherOrderOperator)
