"""What the forward of a training step saves for its backward, and what it could have saved."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Saving"]


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
    """

    recomputed: tuple[tuple[int, str], ...]
    saved: int
    stock_saved: int
    foreseen: float
    moved: int = 0
    stock_moved: int = 0

    def __str__(self) -> str:
        what = ", ".join(f"{count} x {name}" for count, name in self.recomputed)
        moved = f"{self.foreseen / 1e6:+.1f} MB foreseen to be moved"
        if self.moved:
            moved = (
                f"{self.moved / 1e6:.1f} MB moved, {self.stock_moved / 1e6:.1f} with stock's cut"
            )
        return (
            f"the forward saves {self.saved / 1e6:.1f} MB for its backward, stock's "
            f"{self.stock_saved / 1e6:.1f} (x{self.saved / self.stock_saved:.3f}); recomputed are "
            f"{what}; {moved}"
        )
