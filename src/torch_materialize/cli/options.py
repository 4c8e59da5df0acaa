"""Options that several commands take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from ..core.devices import DEVICES

__all__ = ["planned"]

_OPTIONS = (
    click.option(
        "--device", default="h200", show_default=True, help=f"One of {', '.join(DEVICES)}."
    ),
    click.option("--tokens", default=8192, show_default=True, type=click.IntRange(1)),
    click.option("--batch", default=1, show_default=True, type=click.IntRange(1)),
    click.option("--layers", type=click.IntRange(1), help="Layers of a built-in model."),
)


def planned(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the device that a target is planned for, and the size of a built-in one."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
