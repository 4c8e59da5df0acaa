"""What decides is in every key: all of our sources, and what we solve with."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import torch_materialize
from torch_materialize import versions

PACKAGE = Path(torch_materialize.__file__).parent


@pytest.fixture
def copied(tmp_path):
    """A copy of the package, with a folder below one that decides."""
    package = tmp_path / "torch_materialize"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    deeper = package / "inductor" / "deeper"
    deeper.mkdir()
    (deeper / "rule.py").write_text("LIMIT = 1\n")
    return package


@pytest.mark.parametrize(
    ("torch", "wanted"),
    [
        ("2.11.0+cpu", "'triton==3.6.*'"),
        ("2.13.1a0+git1", "'triton==3.7.*'"),
        ("2.14.0.dev20260101", "'triton==3.8.*'"),
        ("2.15.0", "'triton>=3.9,<4'"),
        ("not installed", "'triton>=3.9,<4'"),
    ],
)
def test_each_torch_has_its_triton(monkeypatch, torch, wanted):
    found = {"torch": torch, "triton": "not installed"}
    monkeypatch.setattr(versions, "installed_versions", lambda: found)
    assert versions.triton_to_install() == f"pip install {wanted}"


def implementation(package: Path) -> str:
    """What a process of its own says that imports the package from there."""
    program = (
        "import sys; from torch_materialize.versions import implementation; print(implementation())"
        "; assert not {'scipy', 'numpy', 'torch'} & set(sys.modules), 'imported'"
    )
    command = [sys.executable, "-c", program]
    environment = {"PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return run.stdout.strip()


@pytest.mark.parametrize(
    "place", ["inductor/deeper/rule.py", "core/planner.py", "inductor/new.py", "core/a/b/c.py"]
)
def test_every_source_that_decides_is_in_the_key(copied, place):
    before = implementation(copied)
    source = copied / place
    source.parent.mkdir(parents=True, exist_ok=True)
    with source.open("a") as file:
        file.write("# changed\n")
    assert implementation(copied) != before


def test_where_a_source_is_counts_too(copied):
    before = implementation(copied)
    deeper = copied / "inductor" / "deeper" / "rule.py"
    deeper.rename(copied / "core" / "rule.py")
    assert implementation(copied) != before


def test_what_only_shows_does_not(copied):
    before = implementation(copied)
    (copied / "report" / "new.py").write_text("LIMIT = 2\n")
    assert implementation(copied) == before


@pytest.mark.parametrize("package", ["scipy", "numpy"])
def test_the_solver_s_version_is_in_the_key(monkeypatch, package):
    plain = versions.implementation.__wrapped__
    before, version = plain(), metadata.version
    assert before == versions.implementation()
    monkeypatch.setattr(
        metadata, "version", lambda name: "0.0" if name == package else version(name)
    )
    assert plain() != before


def test_sources_are_read_once(monkeypatch):
    versions.implementation()
    monkeypatch.setattr(versions, "_sources", pytest.fail)
    assert versions.implementation()
