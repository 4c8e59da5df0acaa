"""Digests of upstream source that survive reformatting and Python versions.

The habit is aiobotocore's (``tests/test_patches.py``): each overridden upstream object has
accepted digests, and a new digest is a person's to look at.  We digest the syntax tree instead
of the text, so that comments, layout and docstrings do not matter.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import textwrap
from typing import Any

__all__ = ["body_digest", "signature_digest"]

# More than the table of seams has; every compile checks it.
_REMEMBERED = 256

_Function = ast.FunctionDef | ast.AsyncFunctionDef
# Fields that come and go between Python 3.10 and 3.13 without a change of meaning.
_UNSTABLE_FIELDS = frozenset({"type_comment", "type_params", "kind", "ctx"})


@functools.lru_cache(_REMEMBERED)
def body_digest(obj: Any) -> str:
    """Digest of a function's or class's whole definition, docstrings left out.

    Raises:
        OSError, TypeError: the source is not to be had (built-in, or generated code).
    """
    return _hash(_parse(obj))


@functools.lru_cache(_REMEMBERED)
def signature_digest(obj: Any) -> str:
    """Digest of a function's parameters: names, kinds and defaults; annotations left out.

    Raises:
        OSError, TypeError: the source is not to be had.
    """
    node = _parse(inspect.unwrap(obj))
    if isinstance(node, ast.ClassDef):
        raise TypeError(f"{node.name} is a class; digest its methods")
    arguments = node.args
    for argument in ast.walk(arguments):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    return _hash(arguments)


def _parse(obj: Any) -> _Function | ast.ClassDef:
    # By its code object, because getsource() follows functools.wraps: somebody's wrapper
    # must not pass for the function that it hides.
    source = textwrap.dedent(inspect.getsource(getattr(obj, "__code__", obj)))
    node = ast.parse(source).body[0]
    if not isinstance(node, _Function | ast.ClassDef):
        raise TypeError(f"{obj!r} is neither a function nor a class")
    return node


def _hash(node: ast.AST) -> str:
    return hashlib.sha256(repr(_canonical(node)).encode()).hexdigest()[:16]


def _canonical(value: Any) -> Any:
    """Nested tuples that are equal for equal code on every Python from 3.10 to 3.13."""
    if isinstance(value, ast.AST):
        fields = [
            (name, _canonical(_without_docstring(value, name, child)))
            for name, child in ast.iter_fields(value)
            if name not in _UNSTABLE_FIELDS and child not in (None, [])
        ]
        return (type(value).__name__, *fields)
    if isinstance(value, list):
        return tuple(_canonical(child) for child in value)
    return repr(value)


def _without_docstring(parent: ast.AST, name: str, child: Any) -> Any:
    if name != "body" or not isinstance(parent, _Function | ast.ClassDef):
        return child
    first = child[0]
    is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return child[1:] if is_text and isinstance(first.value.value, str) else child
