"""Draws the pictures of the README and the docs, each for a light and a dark page.

    python dev/pictures.py          # writes docs/images/NAME-light.svg and NAME-dark.svg

What a picture counts is counted here, from what it draws; ``tests/test_pictures.py`` holds the
reads of Llama's norms against a dry run, and that no text meets another or leaves its picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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

    def box(self, x: float, y: float, width: float, height: float, colour: str = "") -> None:
        """A rectangle, in a policy's colour where one is given."""
        fill, line = (colour, colour) if colour else (self.colours.box, self.colours.line)
        self.shapes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="3" '
            f'fill="{fill}" stroke="{line}"/>'
        )

    def label(self, x: float, y: float, width: float, height: float, words: str) -> None:
        """A rectangle with a name in its middle."""
        self.box(x, y, width, height)
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
            f'font-family="system-ui, sans-serif" role="img" aria-label="{escape(self.about)}">\n'
            f"{inner}\n</svg>\n"
        )


def reads(colours: Palette) -> Canvas:
    """What each norm kernel of Llama reads, under stock and under plan."""
    spoken = "; ".join(f"{name} {' '.join(map(str, row))}" for name, row in READS.items())
    canvas = Canvas(720, 288, colours, f"Activations read by each norm kernel: {spoken}.")
    canvas.text(16, 26, "Activations that each norm kernel of Llama-3.1-8B reads", bold=True)
    top, step, unit = 44, 44, 14
    for row, (name, colour) in enumerate((("stock", colours.again), ("plan", colours.stored))):
        base = top + 90 + row * 112
        canvas.text(16, base - 6, name, bold=True, colour=colour)
        for place, count in enumerate(READS[name]):
            left = 96 + place * step
            for level in range(count):
                canvas.box(left, base - (level + 1) * (unit + 2), 28, unit, colour)
            canvas.text(
                left + 14, base - count * (unit + 2) - 5, str(count), anchor="middle", bold=True
            )
        canvas.text(96 + len(READS[name]) * step, base - 6, f"sum {sum(READS[name])}")
    _numbered(canvas, (f"{place + 1}" for place in range(len(READS["stock"]))), 96, step, 262)
    canvas.text(16, 262, "norm", colour=colours.dim)
    canvas.text(
        16,
        282,
        "stock inlines a sum into every kernel that needs it; plan writes it once",
        colour=colours.dim,
    )
    return canvas


def _numbered(canvas: Canvas, words: Iterable[str], left: float, step: float, y: float) -> None:
    for place, word in enumerate(words):
        canvas.text(left + place * step + 14, y, word, anchor="middle", colour=canvas.colours.dim)


def _count(moved: Sequence[tuple[str, int]]) -> tuple[str, str]:
    parts = ", ".join(words for words, _ in moved)
    numbers = " + ".join(str(number) for _, number in moved)
    return f"{parts}:", f"{numbers} = {sum(number for _, number in moved)}"


def stored_or_inlined(colours: Palette) -> Canvas:
    """One sum that three norms need: written once, or computed by each of them."""
    norms = 3
    stored = [("read x and a", 2), ("write h", 1), ("read h twice", norms - 1)]
    inlined = f"read x and a {norms} times: {norms} x 2 = {norms * 2}"
    deeper = f"where x is such a sum itself: {norms} x 3 = {norms * 3}"
    canvas = Canvas(
        720,
        236,
        colours,
        f"h = x + a, needed by three norms. Stored: {' '.join(_count(stored))}. "
        f"Inlined: {inlined}.",
    )
    for left, title, colour, keeps in (
        (16, "h = x + a, stored", colours.stored, True),
        (376, "h = x + a, inlined", colours.again, False),
    ):
        canvas.text(left, 24, title, bold=True, colour=colour)
        canvas.label(left, 56, 52, 30, "x")
        canvas.label(left, 116, 52, 30, "a")
        for number in range(norms):
            middle = 56 + number * 45
            words = "x + a, norm" if number == 0 or not keeps else "norm"
            canvas.label(left + 200, middle - 15, 116, 30, f"{words} {number + 1}")
            if number == 0 or not keeps:
                canvas.arrow((left + 52, 71), (left + 200, middle - 4), colour)
                canvas.arrow((left + 52, 131), (left + 200, middle + 6), colour)
        if keeps:
            canvas.label(left + 96, 131, 48, 30, "h")
            canvas.arrow((left + 210, 71), (left + 132, 131), colour)
            canvas.arrow((left + 144, 140), (left + 200, 104), colour)
            canvas.arrow((left + 144, 148), (left + 200, 148), colour)
    for line, words in enumerate(_count(stored)):
        canvas.text(16, 204 + 20 * line, words, colour=colours.dim)
    canvas.text(376, 204, inlined, colour=colours.dim)
    canvas.text(376, 224, deeper, colour=colours.dim)
    return canvas


def narrow_cut(colours: Palette) -> Canvas:
    """The fp32 sum and the bf16 residual that rounds it."""
    canvas = Canvas(
        720,
        190,
        colours,
        "An fp32 sum of four bytes an element feeds the norm; its bf16 rounding of two bytes "
        "goes to the next layer. The narrow one is cheaper to store.",
    )
    canvas.label(16, 58, 168, 36, "x.float() + r.float()")
    canvas.label(240, 24, 190, 36, "sum: fp32, 4 bytes")
    canvas.box(240, 100, 190, 36, colours.stored)
    canvas.shapes[-1] = canvas.shapes[-1].replace("/>", ' fill-opacity="0.25"/>')
    canvas.text(335, 122.5, "residual: bf16, 2 bytes", anchor="middle")
    canvas.label(490, 24, 214, 36, "this norm, in registers")
    canvas.label(490, 100, 214, 36, "next layer, from memory")
    canvas.arrow((184, 70), (240, 46), colours.dim)
    canvas.arrow((335, 60), (335, 100), colours.stored)
    canvas.arrow((430, 42), (490, 42), colours.dim)
    canvas.arrow((430, 118), (490, 118), colours.stored)
    canvas.text(
        16,
        172,
        "Store the narrow tensor: half the bytes, and the number that eager hands on.",
        colour=colours.dim,
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
