"""Random programs: small Python functions over tensors, with gradients, as readable text.

A program is drawn line by line; each line is run on meta tensors as it is drawn, so that its
shape and dtype are torch's own answer and a line that torch refuses is drawn again.
"""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st

__all__ = ["FLOATS", "HERE", "Input", "Program", "program", "programs"]

FLOATS = ("float32", "bfloat16", "float16", "float64")
_INTS = ("int64", "int32", "uint8")
#: Devices that programs run on; the code for any other is interpreted.
HERE = ("cpu", "cuda")


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
        at_random: whether what is stored is not planned but drawn: most graphs leave a planner
            little to gain, and every choice must keep the promises.
    """

    inputs: tuple[Input, ...]
    lines: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic: bool = False
    vectors: bool = True
    at_random: bool = False
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

    def arguments(self, device: str = "cpu") -> list[torch.Tensor]:
        """Fresh arguments; the same numbers each time."""
        generator = torch.Generator().manual_seed(len(self.source))
        made = [one.make(generator).to(device) for one in self.inputs]
        for tensor, one in zip(made, self.inputs, strict=True):
            tensor.requires_grad_(one.grad)
        return made

    def __str__(self) -> str:
        given = "\n".join(f"# {n}: {i}" for n, i in zip(self.names, self.inputs, strict=True))
        how = f"# dynamic={self.dynamic}, vectors={self.vectors}, at_random={self.at_random}"
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
_NORM = "{0} * torch.rsqrt(({0} * {0}).mean(-1, keepdim=True) + 1e-3)"
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
    _NORM,
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
_OPAQUE = (
    "opaque({0})",
    "{0} @ {0}.t()",
    "opaque({0}) + {0}",
    f"opaque({_NORM})",
    "opaque({0}.softmax(-1))",
    "opaque({0}.to(torch.bfloat16)) + {0}",
)
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

# What a line may be, and how often: mostly what a planner has to decide about.
_KINDS: tuple[tuple[str, tuple[str, ...], int], ...] = (
    ("residual", ("{0} + {1}", "{0} + {1}", "{0} * {1}"), 20),
    ("float", _UNARY, 12),
    ("floats", _BINARY, 10),
    ("float", _OPAQUE, 14),
    ("float", _REDUCTIONS, 10),
    ("float", _CASTS, 6),
    ("float", _ROUND_TRIPS, 4),
    ("float", _VIEWS, 3),
    ("float", _SLICES, 3),
    ("floats", _CATS, 2),
    ("integer", _INTEGERS, 2),
    ("mask", _MASKS, 1),
    ("input", _OF_INPUTS, 2),
    ("mutated", _MUTATIONS, 4),
    ("gathered", _GATHERS, 2),
    ("gathered", _SCATTERS, 1),
    ("selected", _SELECTS, 3),
)
_MOST_ELEMENTS = 1 << 14
_NAME = re.compile(r"\b[av]\d+\b")


class _Draft:
    """A program as it grows; ``known`` holds the meta tensor of every name."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.known: dict[str, torch.Tensor] = {}
        self.lines: list[str] = []
        self.hub = ""
        self.inputs: list[Input] = []
        self.dynamic = dice.randrange(4) == 0
        self.training = dice.randrange(2) == 0
        rows, columns = dice.choice([(8, 64), (17, 33), (32, 128), (3, 16)])
        self.shape = torch.Size((rows, columns))
        for _ in range(dice.randint(1, 4)):
            shape = dice.choice([(rows, columns)] * 4 + [(columns,), (rows, 1)])
            dtype = dice.choice(FLOATS[:2] * 3 + FLOATS)
            self.argument(Input(shape, dtype, grad=self.training))
        if dice.randrange(2):
            self.argument(Input((5,), "int64", below=rows))
        if dice.randrange(4) == 0:
            self.argument(Input((rows, columns), dice.choice(_INTS)))
        if dice.randrange(4) == 0:
            self.argument(Input((rows, columns), "bool"))
        if dice.randrange(3) == 0:  # to be changed in place
            self.argument(Input((rows, columns), dice.choice(FLOATS)))

    def argument(self, one: Input) -> None:
        self.known[f"a{len(self.inputs)}"] = torch.empty(
            one.shape, dtype=getattr(torch, one.dtype), device="meta"
        )
        self.inputs.append(one)

    def pick(self, names: list[str]) -> str:
        """One of the names: the last one more often, and one value again and again.

        Without depth and reuse there is nothing to decide.
        """
        which = self.dice.randrange(8)
        large = [name for name in names if self.known[name].shape == self.shape]
        if large and self.dice.randrange(4):
            names = large
        if which < 3:
            return names[-1]
        if which < 5 and self.hub in names:
            return self.hub
        return self.dice.choice(names)

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
        ((kind, templates, _),) = self.dice.choices(_KINDS, [often for *_, often in _KINDS])
        template = self.dice.choice(templates)
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
            if kind == "residual" or not self.hub:
                self.hub = name

    def _operands(self, kind: str) -> tuple[str, ...] | None:
        if kind == "input":
            given = [n for n in self.named("float") if n.startswith("a")]
            return (self.pick(given),) if given else None
        if kind == "residual":
            hub = self.hub or "a0"
            others = self.like(hub)  # a hub that is no float has none
            return (hub, self.pick(others)) if others else None
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

    def program(self) -> Program:
        """The lines, and as outputs what no line uses; most of it summed up, so that there is
        less to write than to compute.
        """
        made = [name for name in self.known if name.startswith("v")]
        used = {name for line in self.lines for name in _NAME.findall(line.partition(" = ")[2])}
        outputs = []
        for name in (name for name in made if name not in used):
            dtype = self.known[name].dtype
            summed = self.dice.randrange(4) and dtype.is_floating_point and name != made[-1]
            outputs.append(f"{name}s" if summed else name)
            if summed:
                self.lines.append(f"{name}s = {name}.sum(-1)")
        return Program(
            tuple(self.inputs),
            tuple(self.lines),
            tuple(outputs),
            self.dynamic,
            self.dice.randrange(4) > 0,
            self.dice.randrange(3) > 0,
        )


def _broadcast(one: torch.Size, other: torch.Size) -> bool:
    pairs = zip(reversed(one), reversed(other), strict=False)
    return all(a == b or 1 in (a, b) for a, b in pairs)


def programs(most_lines: int = 14) -> st.SearchStrategy[Program]:
    """Random programs of a few lines; none of them draws random numbers of its own.

    Drawn from one seed each: hypothesis's own draws are alike more often than not, which is
    good for finding small examples and leaves a planner nothing to decide.
    """
    return st.integers(0, 2**63).map(lambda seed: program(seed, most_lines))


def program(seed: int, most_lines: int = 14) -> Program:
    """The random program of a seed."""
    dice = random.Random(seed)
    draft = _Draft(dice)
    for _ in range(dice.randint(most_lines // 2, most_lines)):
        draft.step()
    if not any(name.startswith("v") for name in draft.known):
        draft.lines.append("v0 = a0 * 2")
        draft.known["v0"] = draft.known["a0"]
    return draft.program()
