"""The generated code of two kernels beside each other: what of it does something else."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

__all__ = ["Names", "Steps", "difference", "pointers"]

# From here on `difflib` may pass over lines that repeat, which keeps it from being quadratic.
_LONG = 1000

#: How one list of lines becomes another: (tag, i1, i2, j1, j2) as `difflib` has them.
Steps = Sequence[tuple[str, int, int, int, int]]
#: Pointer -> the tensors that it is while it is read, and once it was written.
Names = dict[str, tuple[str, str]]

_POINTER = re.compile(r"\b(?:in_out_ptr|in_ptr|out_ptr)\d+\b")
_SIGNATURE = re.compile(r"^(?:@triton\.jit\s+def|.*\bkernel)\s*\w*\s*\((.*?)\)", re.M | re.S)
# A store in Triton, a vector's or a number's in C++.
_STORE = re.compile(r"\bstore\(|ptr\d+\[[^=]*\]\s*=[^=]")
_TEMPORARY = re.compile(r"\b(_?)tmp\d+\b")


def pointers(source: str) -> list[str]:
    """The pointers that a generated function takes, in order: ``in_ptr0``, ``out_ptr1``."""
    found = _SIGNATURE.search(source)
    return list(dict.fromkeys(_POINTER.findall(found[1]))) if found else []


def difference(one: Sequence[str], other: Sequence[str], named: tuple[Names, Names]) -> Steps:
    """How the lines of one kernel become those of another.

    Lines are the same where they do the same with the same tensors: numbers of temporaries and
    of pointers are another in each kernel, so pointers are compared by the tensors that
    ``named`` says they are.
    """
    ones = [_essence(line, named[0]) for line in one]
    others = [_essence(line, named[1]) for line in other]
    long = max(len(one), len(other)) > _LONG
    return difflib.SequenceMatcher(None, ones, others, autojunk=long).get_opcodes()


def _essence(line: str, named: Names) -> str:
    stores = int(bool(_STORE.search(line)))

    def tensor(found: re.Match[str]) -> str:
        return named[found[0]][stores] if found[0] in named else found[0]

    line = _TEMPORARY.sub(r"\1tmp", _POINTER.sub(tensor, line))
    return re.sub(r"^def \w+\(.*", "def kernel(", line).strip()
