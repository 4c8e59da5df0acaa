"""From the text of a captured graph to a post-grad graph that can be lowered on trial."""

from __future__ import annotations

import ast
import contextlib
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.node import map_aggregate, map_arg
from torch.utils import _pytree as pytree
from torch.utils._dtype_abbrs import dtype_abbrs

from ...core.devices import Device
from ...errors import CaptureError, brief
from ..fx.casts import hold
from ..fx.post_grad import INLINED_CONSTANT, PostGrad
from ..fx.program_order import note_order
from ..lower.virtual_gpu import planned_device, torch_device
from .fake_mode import fake_mode
from .fx_names import CALLED, is_operator, known_name
from .fx_text import Graph, Value, graphs_in, value_of
from .placing import constants_to_inputs

__all__ = ["read_graphs"]

_DTYPES = {text: dtype for dtype, text in dtype_abbrs.items()}
_BINARY: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_COMPARED: dict[type, Callable[..., Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_NAMES = {"inf": math.inf, "nan": math.nan, "device": torch.device, "None": None}


def read_graphs(text: str, device: Device) -> list[PostGrad]:
    """The graphs of a text, as torch prints them, on ``device``.

    A text for a GPU keeps what it has on the CPU there; one that is all on the CPU moves to a GPU.
    What is computed is believed to be what annotations say; a tensor constant, whose numbers no
    text has, is ones where Inductor would look at it, else an input.

    Raises:
        CaptureError: it has no graph, or one that cannot be read; the message says why.
    """
    found = graphs_in(text)
    return [_Reader(one, device).graph() for one in found]


class _Reader:
    """Reads one graph."""

    def __init__(self, text: Graph, device: Device, within: _Reader | None = None) -> None:
        self._text = text
        self._device = device
        names_gpu = any("cuda" in one.device for one in _values(text))
        self._mode: FakeTensorMode = fake_mode() if within is None else within._mode
        self._all_here: bool = not names_gpu if within is None else within._all_here
        self._graph = torch.fx.Graph()
        self._root = torch.nn.Module()
        self._env: dict[str, Any] = {}
        self._line = 0

    def graph(self) -> PostGrad:
        """The graph with what lowering needs beside it."""
        header = self._text.header
        module = self.module()
        names = [node.name for node in module.graph.find_nodes(op="placeholder")]
        is_backward = header.get("is_backward", any(n.startswith("tangents_") for n in names))
        is_forward = not is_backward and any(n.startswith("primals_") for n in names)
        note_order(module.graph, header.get("program_order", ()))
        hold(module, set(header.get("held", ())))
        inputs = [node.meta.get("val") for node in module.graph.find_nodes(op="placeholder")]
        if not any(isinstance(x, torch.Tensor) for x in inputs):
            raise CaptureError("the graph has no tensor input, so that nothing of it has a size")
        is_inference = header.get("is_inference", not is_backward and not is_forward)
        return PostGrad(module, tuple(inputs), self._mode, is_inference, is_backward)

    def module(self) -> torch.fx.GraphModule:
        """The graph with the values of its nodes."""
        self._inputs()
        for statement in self._text.forward.body:
            self._line = statement.lineno
            try:
                self._statement(statement)
            except CaptureError as error:
                raise CaptureError(f"{error} (in `{ast.unparse(statement)[:120]}`)") from error
        module = torch.fx.GraphModule(self._root, self._graph)
        # Beside a graph of Inductor's these say how it is to lay out its results.
        (output,) = module.graph.find_nodes(op="output")
        for name, value in self._text.header.get("output", {}).items():
            output.meta[name] = [tuple(x) if isinstance(x, list) else x for x in value]
        constants_to_inputs(module, self._mode)
        with self._placing():
            self._propagate(module)
        return module

    # Statements.

    def _inputs(self) -> None:
        given = self._text.forward.args.args[1:]
        for place, argument in enumerate(given):
            value = value_of(argument.annotation)
            if value is None and place < len(self._text.arguments):
                value = self._text.arguments[place]
            node = self._graph.placeholder(argument.arg)
            if isinstance(value, str) or value is None:
                raise CaptureError(
                    f"input {argument.arg} is annotated {value!r}: expected dtype, shape and "
                    'strides, as in "f32[8, 16][16, 1]cuda:0"'
                )
            node.meta["val"] = self._tensor(value) if isinstance(value, Value) else value
            self._env[argument.arg] = node

    def _statement(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Return):
            result = self._of(statement.value) if statement.value is not None else None
            self._graph.output(result)
            return
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            return
        if isinstance(statement, ast.Pass):
            return
        if isinstance(statement, ast.Expr):
            self._of(statement.value)
            return
        targets = (
            statement.targets
            if isinstance(statement, ast.Assign)
            else [statement.target]
            if isinstance(statement, ast.AnnAssign)
            else []
        )
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        value = getattr(statement, "value", None)
        if not names or len(names) != len(targets) or value is None:
            raise CaptureError("expected one operator's result with a name; found something else")
        if isinstance(value, ast.Constant) and value.value is None:
            return  # what is not read any more
        node = self._of(value, names[0])
        said = value_of(statement.annotation) if isinstance(statement, ast.AnnAssign) else None
        if isinstance(node, torch.fx.Node) and node.op == "get_attr":
            self._constant(node, said)
        elif isinstance(node, torch.fx.Node) and said is not None:
            node.meta["annotated"] = said
        self._env[names[0]] = node

    def _of(self, value: ast.expr, name: str = "") -> Any:
        """The node or the constant that an expression means; ``name`` is for a node."""
        match value:
            case ast.Constant(value=constant):
                found: Any = constant
            case ast.Tuple(elts=parts):
                found = tuple(map(self._of, parts))
            case ast.List(elts=parts):
                found = [self._of(part) for part in parts]
            case ast.Dict(keys=keys, values=values):
                found = {self._of(k): self._of(v) for k, v in zip(keys, values, strict=True) if k}
            case ast.Slice(lower=lower, upper=upper, step=step):
                ends = (lower, upper, step)
                found = slice(*(None if end is None else self._of(end) for end in ends))
            case ast.Name(id=known):
                found = self._named(known)
            case ast.Attribute():
                found = self._attribute(value, name)
            case ast.Subscript(value=owner, slice=place):
                found = self._call(operator.getitem, (self._of(owner), self._of(place)), {}, name)
            case ast.Call(func=function, args=args, keywords=keywords):
                named = {one.arg: self._of(one.value) for one in keywords if one.arg}
                found = self._call(self._of(function), tuple(map(self._of, args)), named, name)
            case _:
                found = self._arithmetic(value, name)
        return found

    def _arithmetic(self, value: ast.expr, name: str) -> Any:
        if isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.USub):
            return self._call(operator.neg, (self._of(value.operand),), {}, name)
        if isinstance(value, ast.BinOp) and type(value.op) in _BINARY:
            both = self._of(value.left), self._of(value.right)
            return self._call(_BINARY[type(value.op)], both, {}, name)
        if (
            isinstance(value, ast.Compare)
            and len(value.ops) == 1
            and type(value.ops[0]) in _COMPARED
        ):
            both = self._of(value.left), self._of(value.comparators[0])
            return self._call(_COMPARED[type(value.ops[0])], both, {}, name)
        raise CaptureError(f"expected an operator's call; found {type(value).__name__}")

    def _named(self, name: str) -> Any:
        for known in (self._env, _NAMES):
            if name in known:
                return known[name]
        raise CaptureError(f"nothing in the graph is called {name!r}")

    def _attribute(self, value: ast.Attribute, name: str) -> Any:
        path = ast.unparse(value).split(".")
        if path[0] == "self" and len(path) == 2:
            return self._held(path[1], name)
        if path[0] in self._env:
            raise CaptureError(f"expected an operator; found {path[-1]!r} of a tensor")
        found = known_name(path)
        if found is None:
            raise CaptureError(
                f"{ast.unparse(value)} is no operator that is registered here: install or import "
                "what defines it"
            )
        return found

    def _held(self, attribute: str, name: str) -> Any:
        """A node for a subgraph or a constant of the module."""
        child = self._text.children.get(attribute)
        if child is not None:
            setattr(self._root, attribute, _Reader(child, self._device, self).module())
        elif not hasattr(self._root, attribute):
            # Its type is in the annotation of the statement, which is read next.
            setattr(self._root, attribute, None)
        return self._graph.create_node("get_attr", attribute, name=name or None)

    def _constant(self, node: torch.fx.Node, said: Value | str | None) -> None:
        """Puts a tensor constant in its place: numbers where Inductor looks at them."""
        name = str(node.target)
        if getattr(self._root, name) is not None:
            return
        if not isinstance(said, Value):
            raise CaptureError(
                f"the constant {name!r} has no annotation, so that its size is unknown"
            )
        fake = self._tensor(said)
        if fake.numel() > INLINED_CONSTANT:
            setattr(self._root, name, fake)
            return
        known = self._text.header.get("constants", {}).get(name)
        numbers = [1] * fake.numel() if known is None else known
        setattr(self._root, name, torch.tensor(numbers).to(fake.dtype).reshape(fake.shape))
        node.meta["val"] = fake

    def _call(self, target: Any, args: tuple[Any, ...], named: dict[str, Any], name: str) -> Any:
        if target is torch.device:
            return torch.device(*args, **named)
        called = is_operator(target)
        if not called and getattr(target, "__name__", "") not in CALLED:
            raise CaptureError(f"{target!r} is no operator that a captured graph may call")
        nodes = [x for x in pytree.tree_leaves((args, named)) if isinstance(x, torch.fx.Node)]
        parts = pytree.tree_leaves(args)
        nodes += [x for one in parts if isinstance(one, slice) for x in _in_slice(one)]
        if not nodes and not called:
            return target(*args, **named)  # -inf
        node = self._graph.create_node("call_function", target, args, named, name=name or None)
        frame = self._text.sources.get(self._line, "")
        if frame:
            node.meta["stack_trace"] = frame
        return node

    # Values.

    def _placed(self, device: str) -> torch.device:
        there = torch_device(self._device)
        if there.type == "cpu" or self._all_here or "cuda" in device or not device:
            return there
        return torch.device("cpu")

    @contextlib.contextmanager
    def _placing(self) -> Iterator[None]:
        with planned_device(self._device), self._mode, torch.no_grad():
            yield

    def _tensor(self, value: Value) -> torch.Tensor:
        dtype = _DTYPES.get(value.dtype) or getattr(torch, value.dtype, None)
        if not isinstance(dtype, torch.dtype):
            raise CaptureError(f"torch {torch.__version__} has no dtype {value.dtype!r}")
        device = self._placed(value.device)
        with self._mode:
            if value.strides is None:
                return torch.empty(value.shape, dtype=dtype, device=device)
            return torch.empty_strided(value.shape, value.strides, dtype=dtype, device=device)

    def _propagate(self, module: torch.fx.GraphModule) -> None:
        """Gives every node its value."""
        for node in module.graph.nodes:
            node.args = map_aggregate(node.args, self._moved)
            node.kwargs = map_aggregate(node.kwargs, self._moved)
            if node.op != "call_function":
                continue
            annotated = node.meta.pop("annotated", None)
            node.meta["val"] = self._value(module, node, annotated)
        module.recompile()

    def _moved(self, argument: Any) -> Any:
        return self._placed(str(argument)) if isinstance(argument, torch.device) else argument

    def _value(self, module: torch.fx.GraphModule, node: torch.fx.Node, annotated: Any) -> Any:
        def known(other: torch.fx.Node) -> Any:
            if other.op == "get_attr":
                value = getattr(module, str(other.target))
                return other.meta["val"] if isinstance(value, torch.Tensor) else value
            return other.meta["val"]

        args, kwargs = map_arg(node.args, known), map_arg(node.kwargs, known)
        try:
            value = node.target(*args, **kwargs)
        except Exception as error:
            # Its kernel may need a device that is not here; the annotation says what comes of it.
            if isinstance(annotated, Value):
                return self._tensor(annotated)
            if node.users and all(x.target is operator.getitem for x in node.users):
                return self._by_parts(node)
            raise CaptureError(
                f"{node.target} cannot be run on fake tensors: {brief(error)}"
            ) from error
        if isinstance(annotated, Value) and isinstance(value, torch.Tensor):
            return self._as_annotated(node, value, annotated)
        return value

    def _by_parts(self, node: torch.fx.Node) -> tuple[Any, ...]:
        """Several results, as far as they are used and annotated."""
        said = {int(x.args[1]): x.meta.get("annotated") for x in node.users}
        parts = [said.get(place) for place in range(max(said) + 1)]
        return tuple(self._tensor(x) if isinstance(x, Value) else None for x in parts)

    def _as_annotated(self, node: torch.fx.Node, value: torch.Tensor, said: Value) -> torch.Tensor:
        """The value as it was captured, in a layout that another build of torch may not choose."""
        wanted = self._tensor(said)
        if (wanted.dtype, wanted.shape) != (value.dtype, value.shape):
            raise CaptureError(
                f"{node.name} is annotated {wanted.dtype} {list(wanted.shape)}; {node.target} "
                f"gives {value.dtype} {list(value.shape)}"
            )
        same = said.strides in (None, value.stride()) and value.device == wanted.device
        return value if same else wanted


def _in_slice(one: slice) -> list[torch.fx.Node]:
    return [x for x in (one.start, one.stop, one.step) if isinstance(x, torch.fx.Node)]


def _values(text: Graph) -> Iterator[Value]:
    """What the annotations of the inputs say, and of what `load_args` makes."""
    for argument in text.forward.args.args:
        value = value_of(argument.annotation)
        if isinstance(value, Value):
            yield value
    yield from (value for value in text.arguments if isinstance(value, Value))
