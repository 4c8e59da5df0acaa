"""Options that several commands take."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from ..core.devices import DEVICES, HERE
from ..core.policy import PREDICTED

__all__ = [
    "dump_graphs",
    "file_to_write",
    "in_children",
    "named_policies",
    "planning_options",
    "print_left_out",
    "rows",
    "saving",
    "target_options",
    "verbose",
]

_Command = Callable[..., Any]
_Wrapper = Callable[[_Command], _Command]


def _words(
    _ctx: click.Context, _parameter: click.Parameter, given: tuple[str, ...]
) -> tuple[str, ...]:
    """The words of an option that is repeated, or given once with commas."""
    return tuple(word.strip() for one in given for word in one.split(",") if word.strip())


def named_policies(words: str) -> _Wrapper:
    """``--policy``, which is repeated or separated by commas."""
    return click.option(
        "--policy",
        "--policies",
        "policies",
        multiple=True,
        callback=_words,
        metavar="P[,P...]",
        help=words,
    )


_PLANNING_OPTIONS = (
    named_policies(
        f"Policies beside stock, of {', '.join(PREDICTED)}; repeat it or separate them by "
        "commas. Default: all."
    ),
    click.option(
        "--device",
        default="h200",
        show_default=True,
        help=f"One of {', '.join(DEVICES)}, which need not be there, or {HERE[0]}: this "
        "machine's GPU.",
    ),
)

_TARGET_OPTIONS = (
    *_PLANNING_OPTIONS,
    click.option("--training", is_flag=True, help="Forwards and backwards of a training step."),
    click.option(
        "--tokens",
        default=8192,
        show_default=True,
        type=click.IntRange(1),
        help="Length of the input of a built-in model.",
    ),
    click.option("--batch", default=1, show_default=True, type=click.IntRange(1)),
    click.option("--layers", type=click.IntRange(1), help="Layers of a built-in model."),
    click.option(
        "--tracing",
        type=click.Choice(["dynamo", "make_fx"]),
        default="dynamo",
        show_default=True,
        help="The whole torch.compile pipeline, or make_fx straight to a post-grad graph.",
    ),
)


def planning_options(command: _Command) -> _Command:
    """Adds for which policies and which device to plan."""
    for option in reversed(_PLANNING_OPTIONS):
        command = option(command)
    return command


def target_options(command: _Command) -> _Command:
    """Adds what every command takes that plans for a device: policies, device, sizes, tracing."""
    for option in reversed(_TARGET_OPTIONS):
        command = option(command)
    return command


def rows(default: int = 8) -> _Wrapper:
    """``--top``: how long the lists are."""
    return click.option(
        "--top",
        default=default,
        show_default=True,
        type=click.IntRange(0),
        help="Rows per list.",
    )


#: ``--dump-graphs``: a folder for the captured graphs, as ``dump``.
dump_graphs = click.option(
    "--dump-graphs",
    "dump",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    help="Leave the captured graphs in this folder, for `bench-corpus`.",
)


def in_children(many: str, one: str) -> _Wrapper:
    """``--jobs`` and ``--timeout`` of a command that measures each of ``many`` in a process."""
    jobs = click.option(
        "--jobs",
        "at_once",
        type=click.IntRange(1),
        help=f"{many} measured at once, each in one process with one thread. Default: the CPUs.",
    )
    timeout = click.option(
        "--timeout",
        default=900.0,
        show_default=True,
        type=click.FloatRange(0, min_open=True),
        help=f"Seconds for {one}.",
    )
    return lambda command: jobs(timeout(command))


def verbose(words: str) -> _Wrapper:
    """``--verbose``: what is shown besides."""
    return click.option("--verbose", "-v", is_flag=True, help=words)


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


def print_left_out(problems: Iterable[str]) -> None:
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
