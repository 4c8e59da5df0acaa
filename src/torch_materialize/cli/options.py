"""Options that several commands take."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from ..core.devices import DEVICES
from ..core.policy import PREDICTED

__all__ = ["file_to_write", "planned", "policies_to", "rows", "saving", "tell_left_out"]

_Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]

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


def policies_to(verb: str) -> _Wrapper:
    """``--policy``, as ``policies``: what to do with which; empty where none is named."""
    return click.option(
        "--policy",
        "policies",
        multiple=True,
        help=f"A policy to {verb}; repeat it. One of {', '.join(PREDICTED)}. Default: all.",
    )


def rows(default: int = 8) -> _Wrapper:
    """``--top``: how long the lists are."""
    return click.option(
        "--top",
        default=default,
        show_default=True,
        type=click.IntRange(0),
        help="Rows per list.",
    )


def file_to_write(flag: str, words: str) -> _Wrapper:
    """A file to write, for ``--json`` as ``json_path``; its folder has to be there already.

    That is looked at before the command starts: what it writes may take minutes to make.
    """
    return click.option(
        flag,
        f"{flag.removeprefix('--')}_path",
        type=click.Path(dir_okay=False, path_type=Path),
        callback=_in_a_folder,
        help=words,
    )


def _in_a_folder(
    _ctx: click.Context, _parameter: click.Parameter, path: Path | None
) -> Path | None:
    if path is None:
        return None
    if not path.parent.is_dir():
        raise click.BadParameter(f"there is no folder {path.parent}")
    try:
        # As it will be written: a new file beside it, which then takes its place.
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
            return path
    except OSError as error:
        reason = error.strerror or str(error)
        raise click.BadParameter(f"{path} cannot be written ({reason})") from error


def tell_left_out(problems: Iterable[str]) -> None:
    """A line on stderr for each record of a folder that could not be read, once."""
    for problem in dict.fromkeys(problems):
        click.echo(f"left out: {problem}", err=True)


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """Says that a result is written, or in one line why not: it was shown before."""
    try:
        yield
    except OSError as error:
        raise click.ClickException(
            f"{path} could not be written ({error.strerror or error}); what is above is the whole "
            "result. Make room or name another file, and run the command again."
        ) from error
    click.echo(f"written to {path}", err=True)
