"""An explanation as one HTML page: no network, no server, nothing beside the file."""

from __future__ import annotations

import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..core.devices import named
from ..core.story import gap_text
from ..results.explanation import Explanation
from ..results.headline import (
    NOT_PRICED,
    Headline,
    decision_rows,
    growth,
    has_shares,
    headline,
    place_text,
    refusals,
    signed_text,
    size_text,
)
from ..results.kept import curve_points, curve_rows, kept_rows, peak_sentences
from ..results.verdict import seconds_text, verdict_of
from .charts import alive_chart, curve_chart, growth_chart
from .payload import encoded
from .trace import Measured

__all__ = ["SCRIPTS", "page", "summary"]

#: The parts of the page's script behind `base`, each of which may use those before it.
SCRIPTS = (
    "state",
    "rows",
    "tree",
    "changes",
    "icicle",
    "whatif",
    "table",
    "tensors",
    "code",
    "kernels",
    "chart",
    "trace",
    "main",
)

_TOP = 6
# Rows of what a forward keeps: alike tensors of all layers are one.
_KEPT = 40


def page(explanation: Explanation, measured: Measured | None = None) -> str:
    """The whole report; ``measured`` is a trace whose times stand beside its kernels."""
    verdict, figures = verdict_of(explanation), headline(explanation)
    kept, more_kept, left_bytes = kept_rows(explanation, _KEPT)
    points = curve_points(explanation)
    return _render(
        "page.html.j2",
        explanation,
        payload=encoded(explanation, measured),
        scripts=SCRIPTS,
        device=named(explanation.device),
        verdict=verdict,
        sentences=verdict.sentences(),
        # Who reads the page of `explain` has done the next step.
        steps={
            word: what
            for word, what in verdict.steps().items()
            if word != "Next" or not explanation.prices
        },
        left=_left(explanation, figures),
        # The verdict has the first of them.
        refused=refusals(explanation)[1:],
        has_code=any(s.code for g in explanation.graphs for s in g.sides.values()),
        not_priced=NOT_PRICED,
        kept=kept,
        more_kept=(more_kept, left_bytes),
        curve=curve_rows(explanation),
        curve_chart=Markup(curve_chart(points)) if points else "",
        alive_chart=Markup(alive_chart(explanation)),
        peak=peak_sentences(explanation),
    )


def summary(explanation: Explanation) -> str:
    """The verdict and the growth of reads along the layers, for a notebook's cell."""
    row = growth(explanation)
    return _render(
        "summary.html.j2",
        explanation,
        sentences=verdict_of(explanation).sentences(),
        row=row,
        growth=Markup(growth_chart(explanation, row)) if row else "",
        decisions=decision_rows(explanation, _TOP),
        shares=has_shares(explanation),
    )


def _render(template: str, explanation: Explanation, **more: Any) -> str:
    environment = Environment(
        loader=PackageLoader("torch_materialize", "report/page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "size": lambda amount: size_text(round(amount)),
        "change": _change,
        "time": seconds_text,
        "change_of_time": _change_of_time,
        "code": _code,
    }
    text: str = environment.get_template(template).render(
        it=explanation, place=place_text(explanation), figures=headline(explanation), **more
    )
    return text


def _change(size: int) -> str:
    return "same" if size == 0 else f"{'+' if size > 0 else ''}{signed_text(size)}"


def _change_of_time(saved: float) -> str:
    return f"{'-' if saved > 0 else '+' if saved < 0 else ''}{seconds_text(abs(saved))}"


def _code(text: str) -> Markup:
    """What stands between backticks as code."""
    parts = re.split(r"`([^`]*)`", text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else part
        for number, part in enumerate(parts)
    )


def _left(explanation: Explanation, figures: Headline) -> str:
    """How far the plan is from the best, in words."""
    if figures.bound is None:
        return "no bound was computed"
    return f"certified; above it the plan is {gap_text(explanation.gap(), figures.bound)}"
