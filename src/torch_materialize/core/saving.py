"""What the forward of a training step saves for its backward, and what it could have saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["CutPoint", "Kept", "KeptTensors", "LoweredCut", "Saving", "kept_bytes"]


@dataclass(frozen=True)
class LoweredCut:
    """What forward and backward come to for one choice of what is saved, as stock lowers them.

    Attributes:
        moved: bytes that their fused kernels move.
        peak: most bytes alive at once in either, inputs and outputs counted, and in the backward
            what its caller still holds of the forward's inputs; 0 where it was not wanted.
    """

    moved: int
    peak: int = 0


@dataclass(frozen=True)
class Saving:
    """A cut of a joint graph that is not stock's; bytes.

    Attributes:
        recomputed: what is recomputed instead of saved, in groups of what is alike in repeated
            layers: how many, and the first of them by its name in the graph.
        saved, stock_saved: that the forward keeps for the backward, here and with stock.
        foreseen: that fused kernels are foreseen to move more than with stock's cut, and what
            matmuls that run again take, as bytes.
        moved, stock_moved: as lowered; 0 where the cuts were not.
        peak, stock_peak: most bytes alive at once; 0 where no such limit was given.
    """

    recomputed: tuple[tuple[int, str], ...]
    saved: int
    stock_saved: int
    foreseen: float
    moved: int = 0
    stock_moved: int = 0
    peak: int = 0
    stock_peak: int = 0

    def __str__(self) -> str:
        what = ", ".join(f"{count} x {name}" for count, name in self.recomputed)
        what = what or "what is pinned by inline"
        moved = f"{self.foreseen / 1e6:+.1f} MB foreseen to be moved"
        if self.moved:
            moved = (
                f"{self.moved / 1e6:.1f} MB moved, {self.stock_moved / 1e6:.1f} with stock's cut"
            )
        if self.peak:
            moved += (
                f"; at most {self.peak / 1e6:.1f} MB alive at once, {self.stock_peak / 1e6:.1f} "
                "with stock's cut"
            )
        return (
            f"the forward saves {self.saved / 1e6:.1f} MB for its backward, stock's "
            f"{self.stock_saved / 1e6:.1f} (x{self.saved / self.stock_saved:.3f}); recomputed are "
            f"{what}; {moved}"
        )


@dataclass(frozen=True)
class KeptTensors:
    """Tensors that are alike in repeated layers, each with a storage of its own.

    Attributes:
        names: the FX nodes that make them, in program order.
        kept: of them, those that this policy's forward keeps for the backward.
        stock_kept: the same of stock's forward.
        bytes: of all of them.
        more: bytes that fused kernels are foreseen to move more, with what matmuls that run again
            take as bytes, where all of them are recomputed and not kept; None: they are not.
        why: why they are not recomputed; "" where ``more`` is known.
        source: ``file:line`` of the model's code for the first of them, or "".
        pinned: ``keep`` or ``inline``, where the model pins them, or "".
    """

    names: tuple[str, ...]
    kept: tuple[str, ...]
    stock_kept: tuple[str, ...]
    bytes: int
    more: float | None = None
    why: str = ""
    source: str = ""
    pinned: str = ""


@dataclass(frozen=True)
class CutPoint:
    """One choice of what a forward keeps: bytes kept, and bytes moved more than with stock's
    choice, foreseen as in :attr:`KeptTensors.more`.

    ``who`` is ``stock``, ``plan``, ``plan at 0.7`` for a budget of ours and ``upstream at 0.7``
    for one of AOTAutograd's.
    """

    who: str
    saved: int
    more: float


@dataclass(frozen=True)
class Kept:
    """What a forward keeps for its backward; graph inputs do not count.

    Attributes:
        saved, stock_saved: bytes under this policy and under stock.
        tensors: what either keeps, the most bytes first.
        curve: other choices, by falling bytes kept; empty where they were not wanted.
    """

    saved: int
    stock_saved: int
    tensors: tuple[KeptTensors, ...] = ()
    curve: tuple[CutPoint, ...] = ()

    @property
    def is_stock(self) -> bool:
        """Whether it is what stock keeps."""
        return all(set(one.kept) == set(one.stock_kept) for one in self.tensors)


def kept_bytes(kept: Mapping[str, Kept], policy: str) -> int | None:
    """Bytes that a forward keeps under ``policy``, given what those policies keep that plan.

    None where none of them does.
    """
    if policy in kept:
        return kept[policy].saved
    # Whoever does not plan keeps what stock keeps.
    return next((one.stock_saved for one in kept.values()), None)
