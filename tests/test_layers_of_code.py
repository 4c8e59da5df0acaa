"""Which part of the package may know of which: arrows go down, and there is no circle."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "src"
PACKAGE = "torch_materialize"

# From the ground up: a part may import what stands on a line before its own.  "" is
# what `import torch_materialize` gives.
FLOORS = (
    ("_version", "errors", "events"),
    ("versions",),
    ("core",),
    ("activation",),
    ("results",),
    ("inductor.contract", "inductor.read"),
    ("inductor.fx",),
    ("inductor.lower",),
    ("inductor.plan",),
    ("inductor.partition",),
    ("inductor.explain",),
    ("inductor.hooks",),
    ("inductor.offline",),
    ("pins", "api"),
    ("environment",),
    ("auto", "integrations"),
    ("models",),
    ("report",),
    ("sweep",),
    ("jobs",),
    ("cli",),
    ("__main__", ""),
)
FLOOR = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}


@functools.cache
def modules() -> dict[str, Path]:
    found = {}
    for path in SOURCE.joinpath(PACKAGE).rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, module: str = "") -> Iterator[tuple[str, str]]:
    """Module and name of each import of ours in a file, wherever in it the import stands."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if is_ours(alias.name))
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            if not is_ours(base):
                continue
            for alias in node.names:  # `from . import x` imports a module that is called x
                inner = f"{base}.{alias.name}"
                yield (inner, "") if inner in modules() else (base, alias.name)


def is_ours(name: str) -> bool:
    return name == PACKAGE or name.startswith(f"{PACKAGE}.")


def part(module: str) -> str:
    names = module.split(".")[1:]
    return ".".join(names[:2]) if names[:1] == ["inductor"] else "".join(names[:1])


@functools.cache
def graph() -> dict[str, frozenset[str]]:
    return {
        module: frozenset(other for other, _ in imported(path, module)) - {module}
        for module, path in modules().items()
    }


def test_arrows_go_down():
    wrong = [
        f"{module} imports {other}"
        for module, others in graph().items()
        for other in others
        if part(module) != part(other) and FLOOR[part(other)] >= FLOOR[part(module)]
    ]
    assert not wrong


def test_no_modules_import_each_other_in_a_circle():
    done: set[str] = set()
    open_: list[str] = []

    def visit(module: str) -> None:
        if module in open_:
            pytest.fail(" -> ".join([*open_[open_.index(module) :], module]))
        if module not in done:
            open_.append(module)
            for other in sorted(graph()[module]):
                visit(other)
            done.add(open_.pop())

    for module in sorted(graph()):
        visit(module)


def test_only_the_inductor_folder_imports_inductor():
    guilty = []
    for module, path in modules().items():
        if part(module).startswith("inductor"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            guilty += [f"{module}: {n}" for n in names if n.startswith("torch._inductor")]
    assert not guilty


def test_only_commands_and_reports_import_what_draws_them():
    """So that a program that compiles under a policy needs none of it."""
    guilty = []
    for module, path in modules().items():
        if part(module) in ("cli", "report"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [str(node.module)]
            drawing = {"click", "rich", "jinja2", "markupsafe"}
            guilty += [f"{module}: {name}" for name in names if name.split(".")[0] in drawing]
    assert not guilty


def test_what_tests_and_benchmarks_name_is_there():
    """Imports of ours, and texts that name a module of ours to be patched or run."""
    missing = []
    for path in [*TESTS.rglob("*.py"), *TESTS.parent.joinpath("benchmarks").rglob("*.py")]:
        named = {".".join(filter(None, pair)) for pair in imported(path)}
        named |= set(re.findall(rf'"({PACKAGE}(?:\.\w+)+)[":]', path.read_text()))
        named |= set(attributes(path))
        named |= {f"{module}.{name}" for module, name in in_programs(path.read_text())}
        missing += [f"{path.name}: {name}" for name in sorted(named) if not is_there(name)]
    assert not missing


def test_modules_that_sources_name_in_a_text_are_there():
    """As `api` does, which asks whether the hooks were ever imported."""
    texts = [path.read_text() for path in modules().values()]
    named = {name for text in texts for name in re.findall(r'"\{__package__\}((?:\.\w+)+)"', text)}
    assert named
    assert not {name for name in named if f"{PACKAGE}{name}" not in modules()}


def in_programs(text: str) -> Iterator[tuple[str, str]]:
    """Imports of ours wherever they stand: tests run programs that are texts."""
    for module, names in re.findall(rf"from ({PACKAGE}[.\w]*) import ([\w, ]+)", text):
        yield from ((module, name.split(" as ")[0].strip()) for name in names.split(",") if name)


def attributes(path: Path) -> Iterator[str]:
    """What a file asks of modules of ours that it has imported: ``module.attribute``."""
    tree = ast.parse(path.read_text())
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and is_ours(node.module or ""):
            for alias in node.names:
                if f"{node.module}.{alias.name}" in modules():
                    aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    stored = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and is_stored(n)}
    stored |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = node.value.id
            if name in aliases and name not in stored:
                yield f"{aliases[name]}.{node.attr}"
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "setattr":
            match node.args:  # monkeypatch.setattr(module, "attribute", ...)
                case [ast.Name(id=name), ast.Constant(value=str(attribute)), *_]:
                    if name in aliases and name not in stored:
                        yield f"{aliases[name]}.{attribute}"


def is_stored(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Store)


def is_there(name: str) -> bool:
    """Whether a module, or an attribute of one, has this name; operators are torch's to know."""
    if re.fullmatch(rf"{PACKAGE}\.(keep|inline)(\.\w+)?", name):
        return True
    module, _, attribute = name.rpartition(".")
    if name in modules() or module not in modules():
        return name in modules()
    text = modules()[module].read_text()
    return bool(re.search(rf"\b{attribute}\b", text))


@pytest.mark.full
def test_each_module_can_be_imported_first():
    """In forks of a process that has torch alone: no module leans on what another imported."""
    code = """
        import importlib, os, sys, traceback
        import torch
        for name in sys.argv[1:]:
            pid = os.fork()
            if not pid:
                try:
                    importlib.import_module(name)
                except BaseException:
                    print(name, traceback.format_exc(limit=-1), flush=True)
                os._exit(0)
            os.waitpid(pid, 0)
    """
    names = sorted(name for name in modules() if name != f"{PACKAGE}.__main__")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *names],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stdout
