"""A report: an explanation and every way to look at it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ..errors import RecordError
from ..results.base import write_json, write_whole
from ..results.explanation import Explanation
from ..results.record import EXPLANATION, SUFFIX
from ..results.verdict import Verdict, verdict_of

__all__ = ["Report"]

_COLUMNS = 80


@dataclass(frozen=True)
class Report:
    """What :func:`torch_materialize.explain` returns.

    ``explanation`` holds the data; everything else here is made from it.
    """

    explanation: Explanation

    def text(self, top: int = 8, columns: int = _COLUMNS) -> str:
        """The terminal's view as plain text, ``top`` rows of each list."""
        from .terminal import print_explanation

        out = io.StringIO()
        print_explanation(self.explanation, Console(file=out, width=columns), top)
        return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"

    @property
    def verdict(self) -> Verdict:
        """What a person wants to know first: the priced policy against the first one."""
        return verdict_of(self.explanation)

    def print(self, top: int = 8, *, verbose: bool = False) -> None:
        """Prints the terminal's view, as wide as the terminal; ``verbose`` adds every family."""
        from .terminal import print_explanation

        print_explanation(self.explanation, Console(), top, verbose)

    def why(self, tensor: str) -> str:
        """One tensor's story: by FX node, or by ``file:line`` of the model.

        Raises:
            TargetError: no graph has it.
        """
        from .why import find_tensor, why

        found = find_tensor(self.explanation, tensor)
        return "\n\n".join(why(self.explanation, graph, one) for graph, one in found)

    def html(self) -> str:
        """The whole report as one HTML page that needs nothing else."""
        from .html import page

        return page(self.explanation)

    def save(self, path: str | Path) -> None:
        """Writes the report; what it is, the name's end says.

        ``.html`` is the page, ``.json.gz`` and ``.json`` are the record, ``.perfetto.json`` is a
        timeline for ui.perfetto.dev, ``.txt`` is :meth:`text`.

        Raises:
            RecordError: the name ends in nothing of that.
            OSError: the folder does not exist or cannot be written.
        """
        path = Path(path)
        name = path.name
        if name.endswith(".html"):
            write_whole(path, self.html().encode())
        elif name.endswith(".perfetto.json"):
            from .perfetto import timeline

            write_json(path, timeline(self.explanation))
        elif name.endswith((".json", SUFFIX)):
            EXPLANATION.save(self.explanation, path)
        elif name.endswith(".txt"):
            write_whole(path, self.text().encode())
        else:
            raise RecordError(
                f"{path}: unknown kind of file; expected a name that ends in .html, .json.gz, "
                ".json, .perfetto.json or .txt"
            )

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        """What a notebook shows: the headline and the growth of reads along the layers."""
        from .html import summary

        return summary(self.explanation)
