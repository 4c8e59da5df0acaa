"""What the package brings along: its wheel, and what a program imports with it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fresh import upstream

ROOT = Path(__file__).parent.parent


def test_the_wheel_says_that_it_is_typed_and_has_the_entry_points(tmp_path):
    pytest.importorskip("hatchling")
    build = "import sys\nfrom hatchling.build import build_wheel\nprint(build_wheel(sys.argv[1]))"
    subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=ROOT, check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (points,) = (name for name in names if name.endswith("/entry_points.txt"))
        declared = archive.read(points).decode()
    assert "torch_materialize/py.typed" in names
    for line in (
        "[torch_dynamo_backends]\nmaterialize = torch_materialize.integrations.dynamo:materialize",
        "[vllm.general_plugins]\ntorch-materialize = torch_materialize.integrations.vllm:register",
    ):
        assert line in declared


# None in place of a module: whoever imports it fails.  (Inductor does without jinja2.)
PROGRAM = """
import sys
drawing = ("click", "rich", "jinja2")
sys.modules.update(dict.fromkeys(drawing))
import torch_materialize as tm
import torch_materialize.api
import torch
import torch_materialize.auto, torch_materialize.integrations.dynamo as backend

def f(x):
    y = x.exp() + x
    return y * 2, y.sum(-1), y - 1

for how in ({"options": tm.options("plan")}, {"backend": backend.materialize}):
    torch._dynamo.reset()
    torch.compile(f, **how)(torch.randn(8, 8))
with tm.policy("traffic"):
    torch._dynamo.reset()
    torch.compile(f)(torch.randn(8, 8))
assert not any(sys.modules[name] for name in drawing)
"""


@pytest.mark.e2e
@pytest.mark.full
def test_a_governed_compile_imports_nothing_that_draws():
    done = upstream().run(PROGRAM, TORCH_MATERIALIZE="plan")
    assert done.returncode == 0, done.stderr
