"""Real engines, each in a process of its own; their answers are kept for the whole run."""

from __future__ import annotations

import functools
import importlib.util
import os
from pathlib import Path

import pytest
from launch import HERE, launch, note
from models import make

if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.vllm)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """For models and caches; one that is named by the environment is kept."""
    named = os.environ.get("VLLM_TEST_FOLDER")
    return Path(named) if named else tmp_path_factory.mktemp("vllm")


@pytest.fixture(scope="session")
def model(folder):
    return lambda kind: make(kind, folder / "models")


@pytest.fixture(scope="session")
def engine(folder, model):
    """``engine(kind, cut, **environment)``: one run; ``again`` numbers runs over one cache."""

    @functools.cache
    def run(kind: str, cut: str, again: int = 0, **more: str) -> dict:
        answer = launch(model(kind), cut, folder / "cache", **more)
        note(folder, kind=kind, cut=cut, again=again, environment=more, **answer)
        return answer

    return run
