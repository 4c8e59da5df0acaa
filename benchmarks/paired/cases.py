"""What is timed: a model, its inputs and how large, for a GPU or for a CPU of a few cores."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from torch_materialize.models.decoder import Decoder
from torch_materialize.sweep import construct
from torch_materialize.sweep.registry import find
from torch_materialize.sweep.spec import Input, Model

from .geometries import GEOMETRIES, Geometry, Layers

Fake = FakeTensorMode | None

TOKENS = (1, 16, 256, 1024, 8192)
#: Models of the corpus that stand for the kinds that people compile.
MODELS = (
    "gpt2",
    "bert-base",
    "vit-base",
    "efficientnet-b0",
    "timm-efficientnetv2_rw_t",
    "resnet50",
    "ddpm-unet",
)
#: Models of the corpus that are small enough for a CPU in bf16, where rounding is a choice.
NARROW = (
    "gpt2",
    "bert-base",
    "distilbert",
    "electra",
    "albert",
    "gemma3-1b",
    "vit-base",
    "deit",
    "convnext-tiny",
    "resnet50",
)
#: On a GPU only: where its rates decide against the plan of fewest bytes.
REFUSED = ("flux", "longformer")


@dataclass
class Made:
    """A model and its inputs.

    Attributes:
        run: what a way compiles; called with ``args`` and ``kwargs``.
        unit: bytes of one activation, 0 where there is no such unit.
        training: a step is a forward and a backward.
    """

    run: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    unit: int = 0
    training: bool = False


@dataclass(frozen=True)
class Case:
    """One thing to time.

    Attributes:
        part: ``fused`` for fused kernels alone, ``whole`` for everything.
        note: what is smaller than in the model that it stands for.
        make: builds it on the device that is torch's default; in the fake mode that it is given
            nothing is allocated.
    """

    name: str
    part: str
    tokens: int
    note: str
    make: Callable[[Fake], Made]

    @property
    def about(self) -> dict[str, Any]:
        """What a row of results begins with, one that failed included."""
        return {"name": self.name, "part": self.part, "tokens": self.tokens, "note": self.note}

    @property
    def label(self) -> str:
        """One line that tells it from every other case."""
        tokens = f", {self.tokens} tokens" if self.tokens else ""
        return f"{self.name}{tokens}, {self.part}"


def cases(device: str, tokens: tuple[int, ...] = TOKENS, divisor: int = 0) -> Iterator[Case]:
    """Everything, the most telling first: a run that is cut short has the head of the list.

    ``divisor`` makes models narrower by that factor; 0 takes what suits the device.
    """
    yield from _decoders(divisor)
    for part in ("fused", "whole"):
        for geometry in GEOMETRIES.values():
            for count in sorted(tokens, reverse=True):
                case = _of_geometry(geometry, count, part, device, divisor)
                if case is not None:
                    yield case
        for name in MODELS if device == "cpu" else (*MODELS, *REFUSED):
            yield _of_corpus(name, part, device)
        yield _training(part, device)
    if device == "cpu":
        for name in NARROW:
            yield _of_corpus(name, "fused", device, "bfloat16")


def narrow(case: Case) -> bool:
    """Whether a case of a CPU computes in bf16, and its fused kernels alone are timed."""
    return case.part == "fused" and ("fp32" not in case.note)


def _decoders(divisor: int) -> Iterator[Case]:
    """The decoder that the README begins with: 2 layers, T=4096, H=2048, bf16."""
    share = divisor or 1
    tokens, hidden = 4096 // share, 2048 // share
    for gated, part in itertools.product((False, True), ("fused", "whole")):
        name = "vllm-style decoder" + (", gated" if gated else "")

        def make(fake: Fake, gated: bool = gated) -> Made:
            with fake or contextlib.nullcontext():
                columns = hidden if gated else None
                model = Decoder(2, hidden, columns, "vllm", random_norms=True).eval()
                x = torch.randn(tokens, hidden, dtype=torch.bfloat16)
            return Made(model, (x,), unit=tokens * hidden * 2)

        yield Case(name, part, tokens, f"2 layers, H={hidden}", make)


def _layers(g: Geometry, part: str, device: str) -> int:
    """How many of a model's layers.

    What stock recomputes reaches over several of them, so that few show less than a plan saves.
    """
    if device == "cpu" or g.experts:
        return 4  # a CPU has no time for more, and each layer of experts takes 1.2 GB of a GPU
    return 16 if part == "fused" else 8


def _of_geometry(g: Geometry, tokens: int, part: str, device: str, divisor: int) -> Case | None:
    layers = _layers(g, part, device)
    if device == "cpu" and part == "whole" and tokens > 1024:
        return None  # minutes of matmul for each round
    if not divisor:
        divisor = {"fused": 2, "whole": 4}[part] if device == "cpu" else 1
    sizes = g.smaller(divisor)
    note = f"{layers} of {g.layers} layers" + (f", widths / {divisor}" if divisor > 1 else "")

    def make(fake: Fake) -> Made:
        # A cast cannot be faked: without memory, it is made before there are fake tensors.
        with torch.device("meta") if fake else contextlib.nullcontext(), _default(torch.bfloat16):
            model = Layers(sizes, layers).eval()
        with fake or contextlib.nullcontext():
            if fake:
                model.to_empty(device="cpu")
            args = (torch.randn(tokens, sizes.hidden).bfloat16(), torch.arange(tokens))
        return Made(model, args, unit=tokens * sizes.hidden * 2)

    return Case(g.name, part, tokens, note, make)


@contextlib.contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    """Inside the block parameters are made narrow, not made wide and narrowed."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


def _training(part: str, device: str) -> Case:
    g = GEOMETRIES["llama-3.1-8b"]
    tokens, divisor = (256, 8) if device == "cpu" else (4096, 1)
    sizes = g.smaller(divisor)

    def make(fake: Fake) -> Made:
        with fake or contextlib.nullcontext():
            model = Decoder(2, sizes.hidden, sizes.intermediate, "hf", random_norms=True)
            x = torch.randn(tokens, sizes.hidden, dtype=torch.bfloat16)
        return Made(model, (x,), unit=tokens * sizes.hidden * 2, training=True)

    note = f"2 layers without attention, widths / {divisor}"
    return Case("decoder, training step", part, tokens, note, make)


def _of_corpus(name: str, part: str, device: str, dtype: str = "float32") -> Case:
    """``dtype`` is that of a CPU; a GPU takes the corpus' own."""
    model = find(name)
    note = "layers as in the corpus"
    if device == "cpu":
        short = {"float32": "fp32", "bfloat16": "bf16"}[dtype]
        model, share = _smaller(model, dtype, 4 if dtype == "float32" else 8)
        note += f", {short}, batch / {share}"
        name += " in bf16" if dtype == "bfloat16" else ""

    def make(fake: Fake) -> Made:
        where = torch.empty(0).device.type
        storage: Any = fake or contextlib.nullcontext()
        module, args, kwargs = construct.build(model, "inference", storage)
        if fake is not None:
            return Made(module, args, kwargs)
        _fill(module)
        moved = tuple(_drawn(x, where) for x in args)
        named = {name: _drawn(x, where) for name, x in kwargs.items()}
        return Made(module.to(where), moved, named)

    return Case(name, part, 0, note, make)


def _smaller(model: Model, dtype: str, share: int) -> tuple[Model, int]:
    def cut(spec: Input) -> Input:
        rows, *others = spec.shape or (0,)
        return replace(spec, shape=(max(rows // share, 1), *others)) if spec.shape else spec

    inputs: Any = model.inputs
    if isinstance(inputs, tuple):
        inputs = tuple(map(cut, inputs))
    else:
        inputs = {name: cut(spec) for name, spec in inputs.items()}
    return replace(model, inputs=inputs, dtype=dtype), share


def _drawn(value: Any, where: str) -> Any:
    """What a corpus input of zeros stands for: numbers, token ids that every vocabulary has."""
    if not isinstance(value, torch.Tensor):
        return value
    if value.is_floating_point():
        return torch.randn(value.shape, device=where).to(value.dtype)
    return torch.randint(0, 100, value.shape, device=where, dtype=value.dtype)


def _fill(module: nn.Module) -> None:
    """Plain numbers in what was left uninitialized; times do not depend on which."""
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if not value.is_floating_point():
                value.zero_()
            elif "var" in name or value.dim() < 2:
                value.fill_(0.5)
            else:
                value.normal_(0, 0.02)
