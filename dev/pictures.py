"""Draws the pictures of the README and the docs, each for a light and a dark page.

    python dev/pictures.py          # writes docs/images/NAME-light.svg and NAME-dark.svg

What a picture counts is counted here, from what it draws; ``tests/test_pictures.py`` holds the
reads of Llama's norms against a dry run, and that no text meets another or leaves its picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

IMAGES = Path(__file__).parent.parent / "docs" / "images"

#: Activations that the first norm kernels of Llama-3.1-8B read, in launch order (torch 2.13.0,
#: planned H200, 8192 tokens).  What follows repeats the last four.
READS = {
    "stock": (1, 2, 3, 4, 2, 3, 4, 5, 2, 3, 4, 5),
    "plan": (1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2),
}

_FONT = 13
# Wider than any letter of the usual fonts is on average, so that what fits here fits there.
_LETTER = 0.6


@dataclass(frozen=True)
class Palette:
    """Colours of a page."""

    ink: str
    dim: str
    box: str
    line: str
    stored: str
    again: str


PALETTES = {
    "light": Palette("#1b2430", "#57606a", "#eef2f6", "#8c959f", "#1a7f74", "#bc5b0a"),
    "dark": Palette("#e6edf3", "#9aa4af", "#252c35", "#6e7781", "#3fb8a9", "#f0954a"),
}


@dataclass(frozen=True)
class Text:
    """A line of text; ``left`` and ``top`` are of the box that it needs at most."""

    words: str
    left: float
    top: float
    width: float
    height: float


@dataclass
class Canvas:
    """A picture as it is drawn: shapes, and where each text stands."""

    width: int
    height: int
    colours: Palette
    about: str
    shapes: list[str] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)

    def box(
        self, x: float, y: float, width: float, height: float, colour: str = "", line: str = ""
    ) -> None:
        """A rectangle, in a policy's colour where one is given."""
        self.shapes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="3" '
            f'fill="{colour or self.colours.box}" stroke="{line or colour or self.colours.line}" '
            f'stroke-width="{2 if line else 1}"/>'
        )

    def label(
        self, x: float, y: float, width: float, height: float, words: str, line: str = ""
    ) -> None:
        """A rectangle with a name in its middle; ``line`` is the colour of its border."""
        self.box(x, y, width, height, line=line)
        self.text(x + width / 2, y + height / 2 + 4.5, words, anchor="middle")

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        anchor: str = "start",
        colour: str = "",
        size: int = _FONT,
        bold: bool = False,
    ) -> None:
        """A line of text with its base line at ``y``."""
        width = len(words) * size * _LETTER * (1.05 if bold else 1)
        left = x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
        self.texts.append(Text(words, left, y - size, width, size * 1.25))
        weight = ' font-weight="600"' if bold else ""
        self.shapes.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}"{weight} '
            f'fill="{colour or self.colours.ink}">{escape(words)}</text>'
        )

    def lines(self, x: float, y: float, words: Sequence[str]) -> None:
        """A caption of several lines."""
        for number, line in enumerate(words):
            self.text(x, y + 20 * number, line, colour=self.colours.dim)

    def arrow(self, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
        """A line that ends in a point."""
        self.shapes.append(
            f'<path d="M{start[0]:g} {start[1]:g} L{end[0]:g} {end[1]:g}" stroke="{colour}" '
            f'stroke-width="1.5" fill="none" marker-end="url(#{self._point(colour)})"/>'
        )

    def _point(self, colour: str) -> str:
        name = f"point-{colour.removeprefix('#')}"
        shape = (
            f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="{colour}"/></marker>'
        )
        if shape not in self.shapes:
            self.shapes.insert(0, shape)
        return name

    def svg(self) -> str:
        """The whole file.  Without a background: it is the page's."""
        inner = "\n".join(f"  {shape}" for shape in self.shapes)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" height="{self.height}" '
            f'font-family="system-ui, sans-serif" role="img" aria-label="{escape(self.about)}">\n'
            f"{inner}\n</svg>\n"
        )


def reads(colours: Palette) -> Canvas:
    """What each norm kernel of Llama reads, under stock and under plan."""
    spoken = "; ".join(f"{name} {' '.join(map(str, row))}" for name, row in READS.items())
    canvas = Canvas(456, 312, colours, f"Activations read by each norm kernel: {spoken}.")
    canvas.text(16, 26, "Activations read by each norm of Llama-3.1-8B", bold=True)
    first, step, wide, high = 70, 27, 19, 14
    for base, (name, colour) in zip(
        (134, 232), (("stock", colours.again), ("plan", colours.stored)), strict=True
    ):
        canvas.text(16, base - 6, name, bold=True, colour=colour)
        for place, count in enumerate(READS[name]):
            left = first + place * step
            for level in range(1, count + 1):
                canvas.box(left, base - level * (high + 2), wide, high, colour)
            top = base - count * (high + 2) - 5
            canvas.text(left + wide / 2, top, str(count), anchor="middle", bold=True)
        canvas.text(first + len(READS[name]) * step, base - 6, f"sum {sum(READS[name])}")
    canvas.text(16, 254, "norm", colour=colours.dim)
    for place in range(len(READS["stock"])):
        middle = first + place * step + wide / 2
        canvas.text(middle, 254, str(place + 1), anchor="middle", colour=colours.dim)
    canvas.lines(
        16, 280, ["stock inlines a sum into every kernel that needs it,", "plan writes it once"]
    )
    return canvas


def _count(moved: Sequence[tuple[str, int]]) -> list[str]:
    parts = ", ".join(words for words, _ in moved)
    numbers = " + ".join(str(number) for _, number in moved)
    return [f"{parts}:", f"{numbers} = {sum(number for _, number in moved)}"]


def stored_or_inlined(colours: Palette) -> Canvas:
    """One sum that three norms need: written once, or computed by each of them."""
    norms = 3
    stored = _count([("read x and a", 2), ("write h", 1), ("read h twice", norms - 1)])
    inlined = [
        f"read x and a {norms} times: {norms} x 2 = {norms * 2}",
        f"where x is such a sum itself: {norms} x 3 = {norms * 3}",
    ]
    about = f"h = x + a, needed by three norms. Stored: {' '.join(stored)}. Inlined: {inlined[0]}."
    canvas = Canvas(368, 456, colours, about)
    _norms(canvas, 0, norms, keeps=True)
    canvas.lines(16, 196, stored)
    _norms(canvas, 232, norms, keeps=False)
    canvas.lines(16, 428, inlined)
    return canvas


def _norms(canvas: Canvas, top: int, norms: int, *, keeps: bool) -> None:
    """x and a, and the kernels that need their sum; the first writes it where one ``keeps`` it."""
    colour = canvas.colours.stored if keeps else canvas.colours.again
    title = f"h = x + a, {'stored' if keeps else 'inlined'}"
    canvas.text(16, top + 24, title, bold=True, colour=colour)
    canvas.label(16, top + 56, 52, 30, "x")
    canvas.label(16, top + 116, 52, 30, "a")
    for number in range(norms):
        middle = top + 56 + number * 45
        adds = number == 0 or not keeps
        words = f"{'x + a, ' if adds else ''}norm {number + 1}"
        canvas.label(216, middle - 15, 136, 30, words)
        if adds:
            canvas.arrow((68, top + 71), (216, middle - 4), colour)
            canvas.arrow((68, top + 131), (216, middle + 6), colour)
    if keeps:
        canvas.label(112, top + 131, 48, 30, "h")
        canvas.arrow((226, top + 71), (148, top + 131), colour)
        canvas.arrow((160, top + 140), (216, top + 104), colour)
        canvas.arrow((160, top + 148), (216, top + 148), colour)


def narrow_cut(colours: Palette) -> Canvas:
    """The fp32 sum and the bf16 residual that rounds it."""
    canvas = Canvas(
        444,
        244,
        colours,
        "An fp32 sum of four bytes an element feeds the norm; its bf16 rounding of two bytes "
        "goes to the next layer. The narrow one is cheaper to store.",
    )
    canvas.label(16, 16, 192, 32, "x.float() + r.float()")
    canvas.label(16, 80, 192, 32, "sum: fp32, 4 bytes")
    canvas.label(16, 144, 192, 32, "residual: bf16, 2 bytes", colours.stored)
    canvas.label(236, 80, 192, 32, "this norm, in registers")
    canvas.label(236, 144, 192, 32, "next layer, from memory")
    canvas.arrow((112, 48), (112, 80), colours.dim)
    canvas.arrow((208, 96), (236, 96), colours.dim)
    canvas.arrow((112, 112), (112, 144), colours.stored)
    canvas.arrow((208, 160), (236, 160), colours.stored)
    canvas.lines(
        16, 208, ["Store the narrow tensor: half the bytes,", "and the number that eager hands on."]
    )
    return canvas


PICTURES: dict[str, Callable[[Palette], Canvas]] = {
    "reads": reads,
    "stored-or-inlined": stored_or_inlined,
    "narrow-cut": narrow_cut,
}


def files() -> dict[Path, Canvas]:
    """Each file with what is drawn in it."""
    return {
        IMAGES / f"{name}-{page}.svg": draw(colours)
        for name, draw in PICTURES.items()
        for page, colours in PALETTES.items()
    }


if __name__ == "__main__":
    for path, canvas in files().items():
        path.write_text(canvas.svg(), encoding="utf-8")
        print(path)
