"""``torch-materialize diff``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from ..errors import UnknownPolicyError
from .options import print_left_out, rows

if TYPE_CHECKING:
    from ..results.explanation import Explanation

__all__ = ["diff_command"]


@click.command("diff")
@click.argument("a")
@click.argument("b")
@rows(20)
def diff_command(a: str, b: str, top: int) -> None:
    """Show what differs between two records, A and B, of `explain` or `compare`.

    Each is RECORD or RECORD@POLICY: two policies of one record, two torch versions, two commits
    of a model. Without a policy it is the last plan. A folder of records is joined; what cannot be
    read of it is left out with a line.
    """
    from ..report.difference import print_difference

    skipped: list[str] = []
    one, other = _side(a, skipped), _side(b, skipped)
    print_left_out(skipped)
    print_difference(one, other, ("A", "B"), Console(), top)


def _side(words: str, skipped: list[str]) -> Explanation:
    from ..results.folder import load_any

    path, at, policy = words.rpartition("@")
    explanation = load_any(Path(path if at else words), skipped)
    if not at:
        return explanation
    if policy not in explanation.policies:
        raise UnknownPolicyError(
            f"{path} has no policy {policy!r}: expected one of {', '.join(explanation.policies)}"
        )
    return replace(explanation, priced=policy)
