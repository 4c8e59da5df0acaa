"""The page on messages has each of them, and no other; the page on variables has each variable."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from torch_materialize import errors

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "torch_materialize"
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
VARIABLES = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")

_LEVELS = ("WARNING", "ERROR", "CRITICAL")
_METHODS = ("warning", "error", "exception", "critical")
_HOLE = re.compile(r"%[-+#0 ]*\d*(?:\.\d+)?[a-zA-Z]")


def _text(node: ast.expr) -> str:
    """A message as the page has it: ``…`` for what changes; "" where it is no literal."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _HOLE.sub("…", node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(x.value) if isinstance(x, ast.Constant) else "…" for x in node.values)
    return ""


def _calls(file: Path) -> Iterator[ast.Call]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _warning(call: ast.Call) -> ast.expr | None:
    """The message of a call that logs at WARNING or above, or raises Python's warnings."""
    function = ast.unparse(call.func)
    owner, _, name = function.rpartition(".")
    levels = [i for i, x in enumerate(call.args) if ast.unparse(x).endswith(_LEVELS)]
    if name in ("once", "log") and levels:
        return call.args[levels[0] + 1]
    if owner.rpartition(".")[2] in ("log", "logger", "logging", "warnings") and (
        name in _METHODS or name == "warn"
    ):
        return call.args[0]
    return None


def warnings() -> dict[str, str]:
    """Message of each warning -> where it is logged."""
    found = {}
    for file in sorted(SOURCE.rglob("*.py")):
        for call in _calls(file):
            message = _warning(call)
            if message is not None:
                where = f"{file.relative_to(SOURCE)}:{call.lineno}"
                assert _text(message), f"{where}: a message that is no literal cannot be looked up"
                found[_text(message)] = where
    return found


def _entries(section: str) -> list[str]:
    (body,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return re.findall(r"^### `(.+)`$", body, re.MULTILINE)


def _within(entry: str, message: str) -> bool:
    """Whether an entry is a message, or its beginning up to a hole."""
    return message.startswith(entry.removesuffix("…")) and bool(entry.strip("…:. "))


def test_each_warning_has_an_entry_and_each_entry_a_warning():
    messages, entries = warnings(), _entries("Warnings")
    assert len(messages) > 10
    missing = {m: at for m, at in messages.items() if not any(_within(e, m) for e in entries)}
    assert not missing, "docs/troubleshooting.md has no entry for these"
    stale = [e for e in entries if not any(_within(e, m) for m in messages)]
    assert not stale, "docs/troubleshooting.md has entries that nothing logs"
    assert len(entries) == len(messages)


def test_each_error_has_an_entry():
    raised = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.MaterializeError)
    }
    assert set(_entries("Errors")) == raised


def test_each_message_under_an_error_is_one():
    """The classes must be complete; of their messages the page has the usual ones, as they are."""
    literals = [
        _text(node)
        for file in sorted(SOURCE.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.expr)
    ]
    points = [line for line in PAGE.splitlines() if line.startswith("- `")]
    listed = [message for line in points for message in re.findall(r"`([^`]*…[^`]*)`", line)]
    assert len(listed) > 20
    assert not [m for m in listed if not any(m in text for text in literals)]


def test_each_variable_of_ours_is_on_the_page():
    name = re.compile(r"\bTORCH_MATERIALIZE(?:_[A-Z]+)*\b")
    files = [f for part in ("src", "benchmarks") for f in (ROOT / part).rglob("*.py")]
    read = {found for file in files for found in name.findall(file.read_text(encoding="utf-8"))}
    rows = set(re.findall(r"^\| `(TORCH_MATERIALIZE\w*)`", VARIABLES, re.MULTILINE))
    assert rows == read


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('once("k", logging.WARNING, "a %s b", x)', "a … b"),
        ('log.error("%.2f s of %d", x)', "… s of …"),
        ('events.once("k", logging.INFO, "a")', None),
        ('warnings.warn(f"{x} is old")', "… is old"),
        ('log.log(logging.ERROR, "a" " b")', "a b"),
        ('log.info("a")', None),
    ],
)
def test_warnings_are_found(source, expected):
    call = ast.parse(source, mode="eval").body
    assert isinstance(call, ast.Call)
    message = _warning(call)
    assert (message and _text(message)) == expected
