"""The corpus by name, and who of it is meant by what a user wrote."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence

from ..errors import TargetError
from .corpus.audio import AUDIO
from .corpus.decoders import DECODERS
from .corpus.diffusion import DIFFUSION
from .corpus.encoders import ENCODERS
from .corpus.experts import MIXTURES
from .corpus.plain import PLAIN
from .corpus.recurrent import RECURRENT
from .corpus.seq2seq import ENCODER_DECODERS
from .corpus.vision import VISION
from .spec import Model

__all__ = ["CORPUS", "FAMILIES", "find", "select"]

CORPUS: tuple[Model, ...] = (
    *PLAIN,
    *DECODERS,
    *ENCODERS,
    *ENCODER_DECODERS,
    *MIXTURES,
    *RECURRENT,
    *VISION,
    *DIFFUSION,
    *AUDIO,
)

FAMILIES: tuple[str, ...] = tuple(dict.fromkeys(model.family for model in CORPUS))


def find(name: str) -> Model:
    """The model of that name.

    Raises:
        TargetError: there is none; it names the nearest.
    """
    for model in CORPUS:
        if model.name == name:
            return model
    raise TargetError(
        f"unknown model {name!r}: expected file.py:function or a name that "
        f"`torch-materialize sweep --list` shows.{_hint(name, [m.name for m in CORPUS])}"
    )


def select(names: Sequence[str] = (), families: Collection[str] = ()) -> list[Model]:
    """The models of these names (all, without a name) that are of one of these families (any).

    Raises:
        TargetError: there is no such name or family; it names the nearest.
    """
    for family in families:
        if family not in FAMILIES:
            raise TargetError(
                f"unknown family {family!r}: expected one of {', '.join(FAMILIES)}."
                f"{_hint(family, FAMILIES)}"
            )
    chosen = [find(name) for name in dict.fromkeys(names)] if names else CORPUS
    return [model for model in chosen if not families or model.family in families]


def _hint(word: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(word, known, n=3)
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
