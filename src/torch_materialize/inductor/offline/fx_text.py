"""The text of a captured graph: what torch prints of one (``print_readable``), taken apart.

Nothing of it is run.  Statements are read as what they say: one call of an operator each, by its
name, with the types of values in annotations.  What else stands there is an error with its line.
"""

from __future__ import annotations

import ast
import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ...errors import CaptureError

__all__ = ["HEADER", "Graph", "Value", "graphs_in", "value_of"]

#: What begins the line in which our own capture notes what the text does not say.
HEADER = "# torch-materialize: "
# How logs begin each line: `V1128 12:00:00.000000 123 torch/...:1] [0/0] [__post_grad_graphs] `.
_LOGGED = re.compile(r"^[VDIWE]\d{4} [\d:.]+ \d+ [^\]]+\](?: \[[^\]]*\])*\s?")
_CLASS = re.compile(r"^(\s*)(?:\S*\.py\s+)?class\s+(<lambda>|\w+)\((?:torch\.)?(?:nn\.)?Module\):")
_TENSOR = re.compile(r"^(\w+)\[([^\]]*)\](?:\[([^\]]*)\])?([\w:]*)$")
# Of a backward, torch 2.15 says so first.
_COMMENT = re.compile(r"#\s*(?:Backward of forward node: )?File: (.+?):(\d+) in (.+?), code: (.*)$")


@dataclass(frozen=True)
class Value:
    """What an annotation says: ``f32[8, 16][16, 1]cuda:0``.

    ``strides`` is None where the text has none, and ``device`` "".
    """

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    device: str


@dataclass(frozen=True)
class Graph:
    """One graph of a text.

    Attributes:
        forward: its function.
        children: the graphs that are nested in it, by name.
        header: what our own capture has noted.
        sources: line of the text -> the stack frame of the model that is noted above it.
        arguments: what `load_args` of a runnable program makes, by place.
    """

    forward: ast.FunctionDef
    children: dict[str, Graph]
    header: dict[str, Any] = field(default_factory=dict)
    sources: dict[int, str] = field(default_factory=dict)
    arguments: tuple[Any, ...] = ()


def graphs_in(text: str) -> list[Graph]:
    """The graphs of a text, in its order: of a program, or of a log that shows several.

    Raises:
        CaptureError: there is none, or one is not Python.
    """
    lines = [_LOGGED.sub("", line) for line in text.splitlines()]
    header = next((line for line in lines if line.startswith(HEADER)), "")
    noted = json.loads(header.removeprefix(HEADER)) if header else {}
    found = [_graph(block, noted) for block in _blocks(lines)]
    arguments = tuple(_made_by_load_args(text)) if "def load_args(" in text else ()
    graphs = [
        Graph(one.forward, one.children, one.header, one.sources, arguments) for one in found if one
    ]
    if not graphs:
        raise CaptureError(
            "expected a class with a `forward`, as torch prints a graph (print_readable, "
            "fx_graph_readable.py, TORCH_LOGS=post_grad_graphs); found none."
        )
    return graphs


def _blocks(lines: list[str]) -> Iterator[str]:
    """The text of each class of the outermost level."""
    number = 0
    while number < len(lines):
        match = _CLASS.match(lines[number])
        if not match:
            number += 1
            continue
        indent = len(match[1])
        block = [f"class {match[2].strip('<>')}_(Module):"]
        number += 1
        while number < len(lines):
            line = lines[number]
            if line.strip() and len(line) - len(line.lstrip()) <= indent:
                break
            block.append(line[indent:])
            number += 1
        yield "\n".join(block)


def _graph(block: str, header: dict[str, Any]) -> Graph | None:
    try:
        tree = ast.parse(textwrap.dedent(block))
    except SyntaxError as error:
        raise CaptureError(f"line {error.lineno} of a graph is not Python: {error.msg}") from error
    (definition,) = tree.body
    assert isinstance(definition, ast.ClassDef)
    sources, frame = {}, ""
    for number, line in enumerate(block.splitlines(), 1):
        comment = _COMMENT.search(line)
        if comment:
            path, at, function, code = comment.groups()
            frame = f'  File "{path}", line {at}, in {function}\n    {code}'
        elif "No stacktrace found" in line:
            frame = ""
        sources[number] = frame
    return _of_class(definition, header, sources)


def _of_class(
    definition: ast.ClassDef, header: dict[str, Any], sources: dict[int, str]
) -> Graph | None:
    children, forward = {}, None
    for one in definition.body:
        if isinstance(one, ast.ClassDef):
            child = _of_class(one, {}, sources)
            if child is not None:
                children[one.name] = child
        elif isinstance(one, ast.FunctionDef) and one.name == "forward":
            forward = one
    return None if forward is None else Graph(forward, children, header, sources)


def value_of(annotation: ast.expr | None) -> Value | str | None:
    """The tensor that an annotation describes, the text of a size's; None where there is none.

    Raises:
        CaptureError: an extent is a symbol, which has no value here.
    """
    if not isinstance(annotation, ast.Constant) or not isinstance(annotation.value, str):
        return None
    text = annotation.value.strip()
    if text.startswith("Sym("):
        return text
    match = _TENSOR.match(text)
    if match is None:
        return None
    dtype, shape, strides, device = match.groups()
    return Value(
        dtype, _numbers(shape, text), None if strides is None else _numbers(strides, text), device
    )


def _numbers(text: str, annotation: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdigit() for part in parts):
        unknown = next(part for part in parts if not part.isdigit())
        raise CaptureError(
            f"the extent {unknown!r} of {annotation!r} has no value in this file: capture the "
            "graph with static shapes (torch.compile(dynamic=False))"
        )
    return tuple(map(int, parts))


# `load_args` of fx_graph_runnable.py: one call of the reader for each argument.


def _made_by_load_args(text: str) -> Iterator[Any]:
    """A :class:`Value` or a number for each argument that `load_args` makes, in order."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return
    load = next(
        (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "load_args"), None
    )
    storages: dict[str, dict[str, str]] = {}
    for statement in load.body if load is not None else ():
        call = getattr(statement, "value", None)
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        named = {k.arg: ast.unparse(k.value) for k in call.keywords if k.arg}
        if call.func.attr == "storage" and isinstance(statement, ast.Assign):
            storages[ast.unparse(statement.targets[0])] = named
        elif call.func.attr == "symint":
            yield ast.literal_eval(call.args[0])
        elif call.func.attr == "tensor":
            yield _tensor_argument(call, named, storages)


def _tensor_argument(
    call: ast.Call, named: dict[str, str], storages: dict[str, dict[str, str]]
) -> Value:
    storage = storages.get(ast.unparse(call.args[0]), {})
    dtype = named.get("dtype") or storage.get("dtype_hint", "torch.float32")
    shape = ast.literal_eval(call.args[1])
    given = call.args[2] if len(call.args) > 2 else None
    strides = None if given is None else ast.literal_eval(given)
    device = "cuda:0" if "cuda" in storage.get("device", "") else "cpu"
    return Value(dtype.removeprefix("torch."), tuple(shape), strides, device)
