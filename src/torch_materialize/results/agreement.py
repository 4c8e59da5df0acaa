"""How far a compiled model's answers agree with eager's: the record of ``agree``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .base import Schema

__all__ = [
    "AGREEMENT",
    "Agreement",
    "Arises",
    "Compared",
    "Differing",
    "Way",
]


@dataclass(frozen=True)
class Differing:
    """A tensor that differs: its elements, how many are equal, and the largest difference."""

    elements: int
    equal: int
    largest: float


@dataclass(frozen=True)
class Compared:
    """Tensors held against eager's, bit for bit.

    Attributes:
        elements: how many there are in all tensors together.
        equal: those whose bits are eager's.
        largest: the largest absolute difference; infinite where one of the two is no number.
        scale: the largest absolute value of eager's, to read ``largest`` by.
        rows: rows along the last dimension of the first floating tensor that has two or more
            dimensions (tokens, where it holds logits); 0 where there is none.
        rows_equal: those of the rows whose largest element stands in the same place.
        differing: the tensors that differ, by name, in the model's order.
    """

    elements: int
    equal: int
    largest: float
    scale: float = 0.0
    rows: int = 0
    rows_equal: int = 0
    differing: Mapping[str, Differing] = field(default_factory=dict)

    @property
    def is_same(self) -> bool:
        """Whether all bits are eager's."""
        return self.equal == self.elements

    @property
    def share(self) -> float:
        """The equal elements as a share of all."""
        return self.equal / self.elements if self.elements else 1.0


@dataclass(frozen=True)
class Arises:
    """The first operator of the program with which a compiled prefix is no longer eager's.

    Attributes:
        direction: ``forward``; ``backward`` for the last operator whose gradients are not eager's.
        operator: as the program calls it.
        value: the tensor that was compared, as Dynamo calls it.
        place, operators: the operator's number in its graph, and how many that graph has.
        graph: the graph's number, in the order in which they ran.
        source, text: ``file:line`` of the model, and that line.
        module, layer: path and class of the module.
        type: dtype and shape of the value.
        elements, differ: of the value.
        eager, compiled: the element that differs most, each as number and bits in hexadecimal.
        steps: how many representable numbers lie between the two; -1 where that has no meaning.
        largest: their absolute difference.
        alone: whether the operator, compiled alone on eager's inputs, differs from eager, too;
            None where it cannot be compiled alone.
    """

    direction: str
    operator: str
    value: str
    place: int
    operators: int
    graph: int
    source: str
    text: str
    module: str
    layer: str
    type: str
    elements: int
    differ: int
    eager: str
    compiled: str
    steps: int
    largest: float
    alone: bool | None


@dataclass(frozen=True)
class Way:
    """One way to run the model.

    Attributes:
        policy: what compiled it.
        how: ``whole`` or ``pieces``.
        graphs: graphs that Inductor compiled in a forward.
        outputs: the model's outputs.
        gradients: gradients of weights and inputs; None without a backward.
        as_whole: of pieces, whether outputs and gradients have the bits that the same policy
            gives for the whole.
        arises: where the first difference arises, in the forward and then in the backward.
        seconds: median time of one step; 0 where nothing was timed.
        of_stock: (low, median, high) of the ratios to stock's time within a round, with 95%
            confidence; empty where nothing was timed.
        compile_seconds: of the first step.
    """

    policy: str
    how: str
    graphs: int
    outputs: Compared
    gradients: Compared | None = None
    as_whole: bool | None = None
    arises: tuple[Arises, ...] = ()
    seconds: float = 0.0
    of_stock: tuple[float, ...] = ()
    compile_seconds: float = 0.0

    @property
    def is_same(self) -> bool:
        """Whether every output, and every gradient if there are any, has eager's bits."""
        return self.outputs.is_same and (self.gradients is None or self.gradients.is_same)


@dataclass(frozen=True)
class Agreement:
    """A model run eagerly and in several other ways, on one device.

    Attributes:
        target: as the command names it.
        device: what it ran on, in words.
        training: whether a backward ran, too.
        cut: one of :data:`.core.ways.CUTS`, "" where the model has no place to cut at.
        ways: stock whole first.
        size: of a built-in model.
        outputs: the names of the tensors that the model returns.
        eager_repeats: whether eager, run twice, gave the same bits.
        graph_repeats: whether the graphs that Dynamo traced, run eagerly, gave eager's bits.
        graphs: graphs that Dynamo traced.
        eager_seconds, eager_of_stock: as ``seconds`` and ``of_stock`` of a way.
        noise: how far apart two timings of stock lay, as a share.
        rounds: how often each way was timed; 0 where nothing was.
        load: processes that wanted to run, on average over a minute, when the timing began.
        versions: package -> version.
    """

    target: str
    device: str
    training: bool
    cut: str
    ways: tuple[Way, ...]
    size: Mapping[str, int] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    eager_repeats: bool = True
    graph_repeats: bool = True
    graphs: int = 1
    eager_seconds: float = 0.0
    eager_of_stock: tuple[float, ...] = ()
    noise: float = 0.0
    rounds: int = 0
    load: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)


def _derived(found: Agreement) -> dict[str, object]:
    return {"same": {f"{way.policy}, {way.how}": way.is_same for way in found.ways}}


AGREEMENT = Schema(Agreement, "agreement", 1, _derived)
