"""Random programs: small Python functions over tensors, with gradients, as readable text.

A program is drawn line by line; each line is run on meta tensors as it is drawn, so that its
shape and dtype are torch's own answer and a line that torch refuses is drawn again.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st

__all__ = ["FLOATS", "Input", "Program", "programs"]

FLOATS = ("float32", "bfloat16", "float16", "float64")
_INTS = ("int64", "int32", "uint8")


@torch.library.custom_op("torch_materialize_fuzz::opaque", mutates_args=())
def _opaque(x: torch.Tensor) -> torch.Tensor:
    """Stands for an attention or a communication: no compiler sees what is in it."""
    return x.clone()


@_opaque.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


_opaque.register_autograd(lambda _ctx, gradient: gradient)


@dataclass(frozen=True)
class Input:
    """One argument: float data in about [-2, 2], integers in [0, ``below``), or a mask."""

    shape: tuple[int, ...]
    dtype: str
    grad: bool = False
    below: int = 8

    def make(self, generator: torch.Generator) -> torch.Tensor:
        """The data; the same for the same state of the generator."""
        dtype = getattr(torch, self.dtype)
        if dtype == torch.bool:
            return torch.randint(0, 2, self.shape, generator=generator).bool()
        if not dtype.is_floating_point:
            return torch.randint(0, self.below, self.shape, generator=generator).to(dtype)
        return torch.randn(self.shape, generator=generator).clamp(-2, 2).to(dtype)


@dataclass(frozen=True)
class Program:
    """A function ``f(a0, a1, ...)`` given by its lines.

    Attributes:
        lines: statements that assign ``v0``, ``v1``, ... or change one of them in place.
        outputs: names that it returns.
        dynamic: whether it is compiled for any size.
        vectors: whether the C++ code may use vector instructions.
    """

    inputs: tuple[Input, ...]
    lines: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic: bool = False
    vectors: bool = True
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(f"a{i}" for i in range(len(self.inputs))))

    @property
    def source(self) -> str:
        """The function as text."""
        body = "".join(f"    {line}\n" for line in self.lines)
        returned = "".join(f"{name}, " for name in self.outputs)
        return f"def f({', '.join(self.names)}):\n{body}    return ({returned})\n"

    def function(self) -> Callable[..., tuple[torch.Tensor, ...]]:
        """A function of its own each time, so that nothing compiled earlier is found."""
        scope: dict[str, Any] = {**_SCOPE}
        exec(compile(self.source, "<fuzz>", "exec"), scope)
        return scope["f"]  # type: ignore[no-any-return]

    def arguments(self) -> list[torch.Tensor]:
        """Fresh arguments; the same numbers each time."""
        generator = torch.Generator().manual_seed(len(self.source))
        made = [one.make(generator) for one in self.inputs]
        for tensor, one in zip(made, self.inputs, strict=True):
            tensor.requires_grad_(one.grad)
        return made

    def __str__(self) -> str:
        given = "\n".join(f"# {n}: {i}" for n, i in zip(self.names, self.inputs, strict=True))
        how = f"# dynamic={self.dynamic}, vectors={self.vectors}"
        return f"{given}\n{how}\n{self.source}"


_SCOPE: Mapping[str, Any] = {
    "torch": torch,
    "F": torch.nn.functional,
    "opaque": torch.ops.torch_materialize_fuzz.opaque,
}

# Templates: {0}, {1}, {2} are earlier values.
_UNARY = (
    "{0}.sin()",
    "{0}.cos()",
    "{0}.tanh()",
    "{0}.sigmoid()",
    "{0}.relu()",
    "-{0}",
    "{0}.abs()",
    "{0} * 0.5",
    "{0} + 1",
    "1 - {0}",
    "{0} * {0}",
    "torch.exp(-{0}.abs())",
    "torch.rsqrt({0} * {0} + 1)",
    "torch.log1p({0}.abs())",
    "F.silu({0})",
    "F.gelu({0})",
    "{0}.clamp(-1, 1)",
)
_BINARY = (
    "{0} + {1}",
    "{0} - {1}",
    "{0} * {1}",
    "torch.maximum({0}, {1})",
    "{0} / (1 + {1}.abs())",
    "torch.where({0} > {1}, {0}, {1})",
)
_CASTS = tuple(f"{{0}}.to(torch.{name})" for name in FLOATS)
_ROUND_TRIPS = ("{0}.to(torch.bfloat16).to(torch.float32)", "{0}.float().to(torch.float16)")
_REDUCTIONS = (
    "{0}.sum()",
    "{0}.sum(-1)",
    "{0}.sum(0, keepdim=True)",
    "{0}.mean(-1, keepdim=True)",
    "{0}.mean(0)",
    "{0}.amax(-1, keepdim=True)",
    "{0}.var(-1, keepdim=True)",
    "{0}.softmax(-1)",
    "{0}.logsumexp(-1, keepdim=True)",
    "F.layer_norm({0}, {0}.shape[-1:])",
    "{0} * torch.rsqrt(({0} * {0}).mean(-1, keepdim=True) + 1e-3)",
    "{0}.float() * torch.rsqrt({0}.float().pow(2).mean(-1, keepdim=True) + 1e-3)",
    "{0}.cumsum(-1)",
)
_VIEWS = (
    "{0}.t()",
    "{0}.reshape(-1)",
    "{0}.unsqueeze(0)",
    "{0}.unsqueeze(-1)",
    "{0}.squeeze(0)",
    "{0}.flatten()",
    "{0}.transpose(-1, 0)",
    "{0}.t().contiguous()",
    "{0}.flip(0)",
    "{0}.roll(1, 0)",
    "{0}.expand(3, *{0}.shape)",
)
_SLICES = (
    "{0}[1:]",
    "{0}[:-1]",
    "{0}[..., ::2]",
    "{0}[..., 1::2]",
    "{0}[0]",
    "{0}[:, :2]",
    "{0}.chunk(2, -1)[1]",
    "F.pad({0}, (1, 1))",
)
_CATS = (
    "torch.cat([{0}, {1}], 0)",
    "torch.cat([{0}, {1}], -1)",
    "torch.stack([{0}, {1}])",
    "torch.cat([{0}, {0} * 2], 0)",
)
_INTEGERS = (
    "{0} + 1",
    "{0} * 3",
    "{0} // 2",
    "{0} & 5",
    "{0}.to(torch.int64)",
    "{0}.to(torch.float32)",
    "{0}.to(torch.bfloat16)",
    "{0}.sum(-1)",
    "{0} % 3",
    "{0} == 1",
)
_MASKS = ("~{0}", "{0}.to(torch.float32)", "{0}.to(torch.int64)", "{0}.sum(-1)", "{0}.any(-1)")
_OF_INPUTS = ("{0} > 0", "({0} * 4).to(torch.int64)", "{0}.argmax(-1)", "{0}.to(torch.bool)")
_OPAQUE = ("opaque({0})", "{0} @ {0}.t()", "opaque({0}) + {0}")
_MUTATIONS = (
    "{0}.mul_({1})",
    "{0}.add_(1)",
    "{0}.copy_({1})",
    "{0}[1:] += {1}[1:]",
    "{0}[..., :2].mul_(2)",
    "{0}.relu_()",
)
_GATHERS = ("{0}[{1}]", "{0}.index_select(0, {1})", "F.embedding({1}, {0})")
_SCATTERS = (
    "torch.zeros_like({0}).index_add(0, {1}, {0}[{1}])",
    "{0}.index_put(({1},), {0}[{1}] * 2, accumulate=True)",
)
_SELECTS = ("torch.where({0}, {1}, {2})", "{1}.masked_fill({0}, 0.5)")

_KINDS: tuple[tuple[str, tuple[str, ...], int], ...] = (
    ("float", _UNARY, 5),
    ("floats", _BINARY, 6),
    ("float", _CASTS, 3),
    ("float", _ROUND_TRIPS, 2),
    ("float", _REDUCTIONS, 4),
    ("float", _VIEWS, 2),
    ("float", _SLICES, 2),
    ("floats", _CATS, 1),
    ("integer", _INTEGERS, 1),
    ("mask", _MASKS, 1),
    ("input", _OF_INPUTS, 1),
    ("float", _OPAQUE, 2),
    ("mutated", _MUTATIONS, 1),
    ("gathered", _GATHERS, 1),
    ("gathered", _SCATTERS, 1),
    ("selected", _SELECTS, 1),
)
_PICKS = tuple(
    (kind, template) for kind, all_of, n in _KINDS for _ in range(n) for template in all_of[:6]
) + tuple((kind, template) for kind, all_of, _ in _KINDS for template in all_of[6:])
_MOST_ELEMENTS = 1 << 14


class _Draft:
    """A program as it grows; ``known`` holds the meta tensor of every name."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.known: dict[str, torch.Tensor] = {}
        self.lines: list[str] = []
        self.inputs: list[Input] = []
        self.dynamic = draw(st.booleans()) and draw(st.booleans())
        self.training = draw(st.booleans())
        rows, columns = draw(st.sampled_from([(8, 64), (17, 33), (32, 128), (3, 16)]))
        for _ in range(draw(st.integers(1, 3))):
            shape = draw(st.sampled_from([(rows, columns)] * 4 + [(columns,), (rows, 1)]))
            dtype = draw(st.sampled_from(FLOATS[:2] * 3 + FLOATS))
            self.argument(Input(shape, dtype, grad=self.training))
        if draw(st.booleans()):
            self.argument(Input((5,), "int64", below=rows))
        if draw(st.integers(0, 3)) == 0:
            self.argument(Input((rows, columns), draw(st.sampled_from(_INTS))))
        if draw(st.integers(0, 3)) == 0:
            self.argument(Input((rows, columns), "bool"))
        if draw(st.integers(0, 2)) == 0:  # to be changed in place
            self.argument(Input((rows, columns), draw(st.sampled_from(FLOATS))))

    def argument(self, one: Input) -> None:
        self.known[f"a{len(self.inputs)}"] = torch.empty(
            one.shape, dtype=getattr(torch, one.dtype), device="meta"
        )
        self.inputs.append(one)

    def pick(self, names: list[str]) -> str:
        """One of the names, later ones more often: graphs are to be deep."""
        late = self.draw(st.integers(0, len(names) - 1))
        later = self.draw(st.integers(0, len(names) - 1))
        return names[max(late, later)]

    def named(self, kind: str) -> list[str]:
        wanted: Callable[[torch.dtype], bool] = {
            "integer": lambda d: not d.is_floating_point and d != torch.bool,
            "mask": lambda d: d == torch.bool,
        }.get(kind, lambda d: d.is_floating_point)
        return [name for name, value in self.known.items() if wanted(value.dtype)]

    def like(self, name: str) -> list[str]:
        """Float values that broadcast with one, itself included."""
        shape = self.known[name].shape
        return [n for n in self.named("float") if _broadcast(shape, self.known[n].shape)]

    def step(self) -> None:
        kind, template = self.draw(st.sampled_from(_PICKS))
        names = self._operands(kind)
        if names is None:
            return
        line = template.format(*names)
        in_place = kind == "mutated"
        result = self._run(line, in_place)
        if in_place:
            if result is not None:
                self.lines.append(line)
            return
        usable = isinstance(result, torch.Tensor) and 0 < result.numel() <= _MOST_ELEMENTS
        if usable and result is not None:
            name = f"v{len(self.lines)}"
            self.lines.append(f"{name} = {line}")
            self.known[name] = result

    def _operands(self, kind: str) -> tuple[str, ...] | None:
        if kind == "input":
            return (self.pick([n for n in self.named("float") if n.startswith("a")]),)
        if kind in ("floats", "mutated"):
            first = self.pick(self.named("float"))
            is_leaf = self.training and first.startswith("a")
            return None if kind == "mutated" and is_leaf else (first, self.pick(self.like(first)))
        if kind == "gathered":
            indices = [
                f"a{i}" for i, x in enumerate(self.inputs) if x.dtype == "int64" and x.below != 8
            ]
            tall = [n for n in self.named("float") if self._rows(n) >= self._most_index()]
            return (self.pick(tall), indices[0]) if indices and tall else None
        if kind == "selected":
            masks, first = self.named("mask"), self.pick(self.named("float"))
            return (self.pick(masks), first, self.pick(self.like(first))) if masks else None
        names = self.named(kind)
        return (self.pick(names),) if names else None

    def _rows(self, name: str) -> int:
        shape = self.known[name].shape
        return shape[0] if shape else 0

    def _most_index(self) -> int:
        return max((x.below for x in self.inputs if x.dtype == "int64"), default=0)

    def _run(self, line: str, in_place: bool) -> Any:
        scope = {**_SCOPE, **self.known}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if in_place:
                    exec(line, scope)
                    return True
                return eval(line, scope)
        except (RuntimeError, IndexError, TypeError, ValueError, AssertionError):
            return None

    def program(self) -> Program | None:
        made = [name for name in self.known if name.startswith("v")]
        if not made:
            return None
        # What nobody uses is returned, or the compiler would drop it; and some more.
        text = "\n".join(line.partition(" = ")[2] or line for line in self.lines)
        unused = [n for n in made if not _mentions(text, n)]
        extra = [n for n in made if n not in unused and self.draw(st.integers(0, 5)) == 0]
        return Program(
            tuple(self.inputs),
            tuple(self.lines),
            tuple(dict.fromkeys([*unused, *extra] or made[-1:])),
            self.dynamic,
            self.draw(st.integers(0, 3)) > 0,
        )


def _mentions(text: str, name: str) -> bool:
    return any(word == name for word in _words(text))


@functools.lru_cache(16)
def _words(text: str) -> frozenset[str]:
    return frozenset("".join(c if c.isalnum() else " " for c in text).split())


def _broadcast(one: torch.Size, other: torch.Size) -> bool:
    pairs = zip(reversed(one), reversed(other), strict=False)
    return all(a == b or 1 in (a, b) for a, b in pairs)


@st.composite
def programs(draw: st.DrawFn, most_lines: int = 14) -> Program:
    """Random programs of a few lines; none of them draws random numbers of its own."""
    draft = _Draft(draw)
    for _ in range(draw(st.integers(3, most_lines))):
        draft.step()
    program = draft.program()
    if program is None:
        draft.lines.append("v0 = a0 * 2")
        draft.known["v0"] = draft.known["a0"]
        program = draft.program()
    assert program is not None
    return program
