"""An explanation as one HTML page: no network, no server, nothing beside the file."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..core.devices import named
from ..results.explanation import Explanation
from ..results.headline import (
    NOT_PRICED,
    Headline,
    decision_rows,
    families,
    growth,
    has_shares,
    headline,
    place_text,
    refusals,
    size_text,
    sum_rows,
)
from .charts import growth_chart, roofline_chart, waterfall_chart
from .payload import encoded

__all__ = ["page", "summary"]

_TOP = 12


def page(explanation: Explanation) -> str:
    """The whole report."""
    return _render("page.html.j2", explanation, payload=encoded(explanation))


def summary(explanation: Explanation) -> str:
    """The headline and the growth of reads along the layers, for a notebook's cell."""
    return _render("summary.html.j2", explanation)


def _render(template: str, explanation: Explanation, **more: str) -> str:
    environment = Environment(
        loader=PackageLoader("torch_materialize", "report/page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["size"] = lambda amount: size_text(round(amount))
    row = growth(explanation)
    device = named(explanation.device)
    text: str = environment.get_template(template).render(
        it=explanation,
        place=place_text(explanation),
        device=device,
        figures=headline(explanation),
        row=row,
        growth=Markup(growth_chart(explanation, row)) if row else "",
        waterfall=Markup(waterfall_chart(explanation)),
        roofline=Markup(roofline_chart(explanation)),
        families=families(explanation),
        decisions=decision_rows(explanation, _TOP),
        shares=has_shares(explanation),
        not_priced=NOT_PRICED,
        sums=sum_rows(explanation, _TOP),
        refused=refusals(explanation),
        left_out=sum(graph.left_out for graph in explanation.graphs),
        has_code=any(s.code for g in explanation.graphs for s in g.sides.values()),
        verdict=_verdict(headline(explanation)),
        **more,
    )
    return text


def _verdict(figures: Headline) -> str:
    """How far the plan is from the best, in words."""
    if figures.bound is None or figures.left is None:
        return "no bound was asked for"
    above = figures.left / max(figures.bound, 1)
    return f"at most {above:.2%} above the least possible"
