"""The generated code of two kernels beside each other: what of it does something else."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence

__all__ = ["Names", "Steps", "difference", "name_pointers", "pointers"]

# From here on `difflib` may pass over lines that repeat, which keeps it from being quadratic.
_LONG = 1000

#: How one list of lines becomes another: (tag, i1, i2, j1, j2) as `difflib` has them.
Steps = Sequence[tuple[str, int, int, int, int]]
#: Pointer -> the tensors that it is before and after it is written.
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
    ones, others = list(_essence(one, named[0])), list(_essence(other, named[1]))
    long = max(len(one), len(other)) > _LONG
    return difflib.SequenceMatcher(None, ones, others, autojunk=long).get_opcodes()


def name_pointers(source: str, tensors: Iterable[tuple[str, str]]) -> Names:
    """What the pointers of a function are, of (held before, holds then) of its arguments.

    What an input's or an output's memory held before is nothing to the kernel.
    """
    return {
        pointer: (before if pointer.startswith("in_out") else then, then)
        for pointer, (before, then) in zip(pointers(source), tensors, strict=False)
    }


def _essence(lines: Iterable[str], named: Names) -> Iterator[str]:
    written: set[str] = set()
    for line in lines:
        found = _POINTER.findall(line)
        if _STORE.search(line):
            written.update(found)
        essence = _POINTER.sub(lambda f: _tensor(f[0], named, written), line)
        essence = _TEMPORARY.sub(r"\1tmp", essence)
        yield re.sub(r"^def \w+\(.*", "def kernel(", essence).strip()


def _tensor(pointer: str, named: Names, written: set[str]) -> str:
    return named[pointer][pointer in written] if pointer in named else pointer
