"""Policies, devices, traffic sums and digests: everything that needs no torch."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fresh import upstream
from torch_materialize.core import devices
from torch_materialize.core.graph import Graph, Kernel, Tensor
from torch_materialize.core.policy import POLICIES, Policy, parse
from torch_materialize.core.traffic import differences, traffic
from torch_materialize.errors import TargetError, UnknownPolicyError

SOURCE = Path(__file__).parents[1] / "src" / "torch_materialize"


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_no_torch():
    out = run(
        """
        import sys
        import torch_materialize
        print(sorted(m for m in sys.modules if m == "torch" or m.startswith("torch.")))
        """
    )
    assert out.strip() == "[]"


def test_import_changes_nothing_in_inductor():
    done = upstream().run(
        textwrap.dedent(
            """
            from torch._inductor import compile_fx, ir
            before = dict(vars(ir.StorageBox)), dict(vars(compile_fx))
            import torch_materialize
            assert (dict(vars(ir.StorageBox)), dict(vars(compile_fx))) == before
            assert not hasattr(compile_fx.compile_fx, "__torch_materialize__")
            """
        )
    )
    assert done.returncode == 0, done.stderr


def test_core_imports_no_torch():
    out = run(
        """
        import importlib, pkgutil, sys
        import torch_materialize.core as core
        for module in pkgutil.iter_modules(core.__path__):
            importlib.import_module(f"{core.__name__}.{module.name}")
        print("torch" in sys.modules)
        """
    )
    assert out.strip() == "False"


def test_public_names():
    import torch_materialize as tm

    assert set(tm.__all__) == {
        "CaptureError",
        "Handle",
        "MaterializeError",
        "Numerics",
        "Policy",
        "PolicyName",
        "RecordError",
        "Report",
        "TargetError",
        "UnknownPolicyError",
        "UnsupportedTorchError",
        "__version__",
        "active",
        "disable",
        "enable",
        "explain",
        "inline",
        "keep",
        "options",
        "policy",
    }
    assert all(hasattr(tm, name) for name in tm.__all__)


def test_misspelt_policy_names_the_nearest():
    with pytest.raises(UnknownPolicyError, match="Did you mean 'traffic'"):
        parse("trafic")
    with pytest.raises(UnknownPolicyError, match="takes no settings; found speed"):
        parse("traffic", {"speed": 1})


def test_misspelt_device_names_the_nearest():
    with pytest.raises(TargetError, match="Did you mean 'h200'"):
        devices.find("h20")


def test_fingerprints_differ_by_policy_settings_and_implementation():
    prints = {
        Policy("traffic").fingerprint("1"),
        Policy("traffic").fingerprint("2"),
        Policy("traffic", {"a": "1"}).fingerprint("1"),
        Policy("stock").fingerprint("1"),
    }
    assert len(prints) == 4
    assert Policy("traffic").fingerprint("1") in prints
    assert all(parse(name).name == name for name in POLICIES)


def _graph(writes: dict[str, str]) -> Graph:
    tensors = {b: Tensor(b, node, 8, "float32") for b, node in writes.items()}
    tensors["x"] = Tensor("x", "", 16, "float32")
    kernel = Kernel("k", "pointwise", {"x": 16}, dict.fromkeys(writes, 8))
    matmul = Kernel("mm", "extern", {"x": 16}, {})
    return Graph((kernel, matmul), tensors)


def test_traffic_counts_fused_kernels_only():
    total = traffic(_graph({"b": "add"}))
    assert (total.kernels, total.other_kernels) == (1, 1)
    assert (total.read_bytes, total.write_bytes, total.bytes) == (16, 8, 24)


def test_differences_go_both_ways():
    graphs = {"stock": _graph({"b": "add"}), "traffic": _graph({"c": "mul"})}
    found = {(d.node, d.materialized_by, d.inlined_by) for d in differences(graphs, "stock")}
    assert found == {("add", "stock", "traffic"), ("mul", "traffic", "stock")}


def test_digest_ignores_layout_and_sees_changes():
    from torch_materialize.inductor.contract import digest

    def first(a, b=1):
        return a + b

    def same(a, b=1):
        """Only a docstring."""
        # and a comment
        return (
            a
            + b
        )  # fmt: skip

    def other(a, b=1):
        return a - b

    same.__name__ = other.__name__ = "first"
    parsed = [digest._parse(f) for f in (first, same, other)]
    for node in parsed:
        node.name = "f"
    one, two, three = (digest._hash(node) for node in parsed)
    assert one == two != three
    assert digest.signature_digest(first) == digest.signature_digest(other)
