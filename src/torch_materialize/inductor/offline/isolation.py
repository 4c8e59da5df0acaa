"""A capture that a program's own compiled functions do not notice, nor it them.

Dynamo keeps what it compiled with a code object, and a model that is captured runs the code that
the program may have compiled.  ``torch._dynamo.reset`` would make room by dropping all of it.
"""

from __future__ import annotations

import collections
import contextlib
import gc
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any
from unittest import mock

import torch
import torch._dynamo
from torch._dynamo import config, convert_frame, pgo, utils

__all__ = ["isolated"]

# What a program may have switched that would hide its graphs from us, or write a file for it.
_SETTINGS = {
    "disable": False,
    "suppress_errors": False,
    "automatic_dynamic_local_pgo": False,
    "automatic_dynamic_remote_pgo": False,
}


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Inside the block Dynamo starts as in a new process; afterwards it is as it was.

    Compiled functions, sizes seen before (automatic dynamic shapes), counters and the stance of
    ``torch.compiler`` are the program's own.  Its threads compile before or after the block; a
    compiled function that one of them calls meanwhile is compiled once more.
    """
    with convert_frame.compile_lock, contextlib.ExitStack() as stack:
        known = {name: value for name, value in _SETTINGS.items() if hasattr(config, name)}
        stack.enter_context(config.patch(known))
        stack.enter_context(torch.compiler.set_stance("default"))
        sizes: Any = collections.defaultdict(pgo.CodeState)
        stack.enter_context(mock.patch.object(pgo, "_CODE_STATE", sizes))
        stack.enter_context(mock.patch.object(pgo, "_INIT_CODE_STATE", None))
        stack.enter_context(_counts())
        stack.enter_context(_own_code())
        yield


@contextlib.contextmanager
def _counts() -> Iterator[None]:
    """Puts back what Dynamo counts, in place: other modules hold these objects."""
    compiles = collections.Counter(convert_frame.FRAME_COMPILE_COUNTER)
    frames, current = convert_frame.FRAME_COUNTER, utils.curr_frame
    counted = {name: collections.Counter(count) for name, count in utils.counters.items()}
    reasons = list(utils.graph_break_reasons)
    try:
        yield
    finally:
        _refill(convert_frame.FRAME_COMPILE_COUNTER, compiles)
        _refill(utils.counters, counted)
        utils.graph_break_reasons[:] = reasons
        convert_frame.FRAME_COUNTER, utils.curr_frame = frames, current


def _refill(held: Any, content: Any) -> None:
    held.clear()
    held.update(content)


@contextlib.contextmanager
def _own_code() -> Iterator[None]:
    """Gives every function that Dynamo has seen a code object without a past, and takes it back.

    A copy of a code object has no compiled code, no recompilations that count against a limit
    and no mark that says to skip it.
    """
    seen = (weak() for weak in convert_frame.input_codes.seen)
    codes = [code for code in seen if code is not None]
    functions = [
        one
        for one in (gc.get_referrers(*codes) if codes else ())
        if isinstance(one, FunctionType) and any(one.__code__ is code for code in codes)
    ]
    originals = [function.__code__ for function in functions]
    copies = {id(code): _copied(code) for code in codes}
    for function, code in zip(functions, originals, strict=True):
        function.__code__ = copies[id(code)]
    try:
        yield
    finally:
        for function, code in zip(functions, originals, strict=True):
            function.__code__ = code
        _forget(codes)


def _copied(code: CodeType) -> CodeType:
    """A code object that Dynamo has not seen; the functions that it makes, too."""
    inner = (_copied(one) if isinstance(one, CodeType) else one for one in code.co_consts)
    return code.replace(co_consts=tuple(inner))


def _forget(before: list[CodeType]) -> None:
    """Drops what was compiled for code that Dynamo had not seen before."""
    old = {id(code) for code in before}
    for weak in [*convert_frame.input_codes.seen, *convert_frame.output_codes.seen]:
        code = weak()
        if code is not None and id(code) not in old:
            torch._dynamo.eval_frame.reset_code(code)
