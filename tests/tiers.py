"""Which parameters of a test are in the quick tier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def but(quick: Iterable[Any], cases: Iterable[Any]) -> list[Any]:
    """All of ``cases``, of which only those in ``quick`` are in the quick tier."""
    cases, quick = list(cases), list(quick)
    assert all(one in cases for one in quick), f"{quick}: one of them is no case"
    return [one if one in quick else _full(one) for one in cases]


def _full(case: Any) -> Any:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.full)
