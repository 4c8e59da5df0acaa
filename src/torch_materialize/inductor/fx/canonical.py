"""A post-grad graph in a form that does not depend on how it was written down.

Two captures of one model give the same nodes under other names and, where nodes do not depend on
each other, in another order.  Here nodes are numbered by a walk from the output backwards, by the
order of arguments, which is part of the graph's meaning: the same numbers in every process, on
every machine and, where the graph is the same, on every torch.

Left out is what decides nothing: names, the number of a device, arguments that have their default
(a later torch may add some), and what a rank has for itself, as in :mod:`..plan.ranks`.  Shapes and
strides of all values are in it; a symbolic extent counts with its hint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import _pytree as pytree

from .own_arguments import ADDRESS, is_own, nameless
from .post_grad import INLINED_CONSTANT

__all__ = ["Canonical", "canonical"]

# But what these fill with may need to be rounded (:mod:`.rounding`).
_FILLING = ("aten.full", "aten.full_like", "aten.constant_pad_nd")
# Arguments that name a device or a group of processes.
_PLACES = ("device", "group_name", "pin_memory")


@dataclass(frozen=True)
class Canonical:
    """What :func:`canonical` makes of a graph.

    Attributes:
        nodes: its nodes in canonical order; inputs that nothing reads are left out.
        lines: what each of them is, by the numbers of those that it reads.
    """

    nodes: tuple[torch.fx.Node, ...]
    lines: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Of :attr:`lines`; the same for the same graph."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()


def canonical(module: torch.fx.GraphModule) -> Canonical:
    """Numbers the nodes of a graph and describes each.  Time: linear in the nodes."""
    walk = _Walk(module, _Symbols())
    walk.all()
    return Canonical(tuple(walk.nodes), (*walk.lines, *walk.symbols.lines()))


@dataclass
class _Symbols:
    """Names of our own for symbolic extents, in the order in which they are met."""

    found: dict[Any, Any] = field(default_factory=dict)
    hints: list[Any] = field(default_factory=list)

    def text(self, value: Any) -> str:
        """A number, or a symbolic one by our names."""
        if not isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            return str(value)
        import sympy

        expression = value.node.expr
        unknown = expression.free_symbols - self.found.keys()
        for symbol in sorted(unknown, key=lambda one: (str(self._hint(value, one)), str(one))):
            self.found[symbol] = sympy.Symbol(f"size{len(self.found)}", integer=True)
            self.hints.append(self._hint(value, symbol))
        return str(expression.xreplace(self.found))

    def lines(self) -> Iterator[str]:
        """What each name stood for while the graph was traced."""
        for name, hint in zip(self.found.values(), self.hints, strict=True):
            yield f"{name} = {hint}"

    @staticmethod
    def _hint(value: Any, symbol: Any) -> Any:
        """None where an extent depends on data."""
        shapes = value.node.shape_env
        known: Any = getattr(shapes, "backed_var_to_val", None) or getattr(shapes, "var_to_val", {})
        found = known.get(symbol)
        return None if found is None else int(found)


class _Walk:
    """Numbers the nodes of one graph, subgraphs each for themselves."""

    def __init__(self, module: torch.fx.GraphModule, symbols: _Symbols) -> None:
        self._module = module
        self.symbols = symbols
        self.nodes: list[torch.fx.Node] = []
        self.lines: list[str] = []
        self._place: dict[torch.fx.Node, int] = {}

    def all(self) -> None:
        """From the output, then from what nothing reads: writes into inputs, effects, dead code."""
        every = list(self._module.graph.nodes)
        for node in every:
            if node.op == "output":
                self._from(node)
        left = [n for n in every if n.op != "placeholder" and n not in self._place and not n.users]
        # Which of those comes first is nothing that the graph says, so what they are decides.
        known = self._below(left)
        for node in sorted(left, key=known.__getitem__):
            self._from(node)

    def _from(self, root: torch.fx.Node) -> None:
        """Numbers what a node reads, by the order of its arguments, and then the node."""
        todo = [(root, iter(_read_by(root)))]
        while todo:
            node, left = todo[-1]
            following = next((one for one in left if one not in self._place), None)
            if following is not None:
                todo.append((following, iter(_read_by(following))))
                continue
            todo.pop()
            if node not in self._place:
                self._place[node] = len(self.nodes)
                self.nodes.append(node)
                self.lines.append(self._line(node, lambda other: f"%{self._place[other]}"))

    def _below(self, roots: list[torch.fx.Node]) -> dict[torch.fx.Node, str]:
        """What each root computes from what is numbered by now, as a digest."""
        known: dict[torch.fx.Node, str] = {}

        def name(node: torch.fx.Node) -> str:
            return f"%{self._place[node]}" if node in self._place else known[node]

        for root in roots:
            todo = [root]
            while todo:
                node = todo[-1]
                open_ = [x for x in _read_by(node) if x not in self._place and x not in known]
                if open_:
                    todo += open_
                    continue
                todo.pop()
                text = self._line(node, name)
                known[node] = hashlib.sha256(text.encode()).hexdigest()
        return known

    def _line(self, node: torch.fx.Node, name: Any) -> str:
        """What a node is; ``name`` names those that it reads."""
        values = [self._value(x) for x in pytree.tree_leaves(node.meta.get("val"))]
        if node.op == "placeholder":
            return f"input {values}"
        if node.op == "get_attr":
            return self._attribute(node)
        if node.op == "output":
            return f"output {self._shown(node.args, name)}"
        given = [f"{k}={self._shown(v, name)}" for k, v in _arguments(node)]
        return f"{_called(node)}({', '.join(given)}) -> {values}"

    def _attribute(self, node: torch.fx.Node) -> str:
        value: Any = self._module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        if isinstance(value, torch.fx.GraphModule):
            inner = _Walk(value, self.symbols)
            inner.all()
            return f"graph {inner.lines}"
        if not isinstance(value, torch.Tensor):
            return f"constant {type(value).__name__}"
        is_read = value.numel() > INLINED_CONSTANT
        shown = node.meta["val"] if isinstance(node.meta.get("val"), torch.Tensor) else value
        return f"{'input' if is_read else 'constant'} {[self._value(shown)]}"

    def _value(self, value: Any) -> str:
        if not isinstance(value, torch.Tensor):
            return self.symbols.text(value)
        shape = [self.symbols.text(extent) for extent in value.shape]
        if value.layout is not torch.strided:
            return f"{value.dtype} {value.layout} {shape}"
        strides = [self.symbols.text(stride) for stride in value.stride()]
        return f"{value.dtype} {value.device.type} {shape} {strides}"

    def _shown(self, argument: Any, name: Any) -> str:
        if isinstance(argument, torch.fx.Node):
            return str(name(argument))
        if isinstance(argument, list | tuple):
            return f"[{', '.join(self._shown(one, name) for one in argument)}]"
        if isinstance(argument, dict):
            entries = sorted(argument.items(), key=lambda pair: str(pair[0]))
            return f"{{{', '.join(f'{k}: {self._shown(v, name)}' for k, v in entries)}}}"
        if isinstance(argument, slice):
            return self._shown([argument.start, argument.stop, argument.step], name)
        if isinstance(argument, torch.device):
            return argument.type
        return ADDRESS.sub("", self.symbols.text(argument))


def _read_by(node: torch.fx.Node) -> list[torch.fx.Node]:
    """The nodes that a node reads, in the order of its operator's arguments."""
    given = [value for _, value in _arguments(node)] if node.op == "call_function" else node.args
    found: list[torch.fx.Node] = []
    todo = list(given)[::-1]
    while todo:
        one = todo.pop()
        if isinstance(one, torch.fx.Node):
            found.append(one)
        elif isinstance(one, list | tuple):
            todo += reversed(one)
        elif isinstance(one, dict):
            todo += [one[key] for key in sorted(one, key=str, reverse=True)]
        elif isinstance(one, slice):
            todo += [one.step, one.stop, one.start]
    return found


def _arguments(node: torch.fx.Node) -> list[tuple[str, Any]]:
    """Arguments by name, in an order of the operator's; without what decides nothing."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return [*((str(i), x) for i, x in enumerate(node.args)), *_named(node)]
    schema = node.target._schema.arguments
    given = {**dict(zip((a.name for a in schema), node.args, strict=False)), **node.kwargs}
    fills = str(node.target).rpartition(".")[0] in _FILLING
    found = []
    for argument in schema:
        value = given.get(argument.name, argument.default_value)
        if argument.name in _PLACES or _is(value, argument.default_value):
            continue
        if is_own(argument) and not fills:
            value = pytree.tree_map(nameless, value)
        found.append((argument.name, value))
    return found


def _named(node: torch.fx.Node) -> Iterator[tuple[str, Any]]:
    """Named arguments; of Triton's kernels what their numbers in this process stand for."""
    for name in sorted(node.kwargs):
        value = node.kwargs[name]
        if name in ("kernel_idx", "constant_args_idx") and isinstance(value, int):
            value = _of_triton(name, value)
        yield name, value


def _of_triton(name: str, number: int) -> Any:
    from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table

    if name == "constant_args_idx":
        return kernel_side_table.get_constant_args(number)
    kernel = kernel_side_table.get_kernel(number)
    kernel = getattr(kernel, "fn", kernel)
    return f"{getattr(kernel, '__name__', '')} {_short(getattr(kernel, 'src', ''))}"


def _short(text: object) -> str:
    """A short digest of a text."""
    return hashlib.sha256(str(text).encode()).hexdigest()[:16]


def _called(node: torch.fx.Node) -> str:
    if isinstance(node.target, torch._ops.OperatorBase):
        return str(node.target)
    return str(getattr(node.target, "__qualname__", None) or node.target)


def _is(value: Any, default: Any) -> bool:
    """Whether an argument has its default; 0 and False, 1 and 1.0 are not the same."""
    if isinstance(value, torch.fx.Node) or type(value) is not type(default):
        return False
    return isinstance(value, bool | int | float | str | None) and value == default
