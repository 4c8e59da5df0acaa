"""Orders of enable, undo, blocks and imports, each in a process of its own."""

from __future__ import annotations

import subprocess
import textwrap

import pytest

from fresh import upstream

PREAMBLE = """
import logging, sys, threading
import torch
torch.manual_seed(0)
from torch._inductor import compile_fx as cfx, config, ir
UPSTREAM = ir.StorageBox.should_realize_on_reuse, cfx.compile_fx
import torch_materialize as tm

def here():
    return ir.StorageBox.should_realize_on_reuse, cfx.compile_fx

def is_upstream():
    return all(a is b for a, b in zip(here(), UPSTREAM))

def is_ours():
    return all(a is not b for a, b in zip(here(), UPSTREAM))
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    done = upstream().run(PREAMBLE + textwrap.dedent(code), **environment)
    assert done.returncode == 0, done.stderr
    return done


ORDERS = {
    "undo gives back exactly upstream's functions": """
        handle = tm.enable("traffic")
        assert is_ours() and handle.active and tm.active().name == "traffic"
        handle.undo()
        assert is_upstream() and not handle.active and tm.active().name == "stock"
        """,
    "twice is once": """
        first = tm.enable("traffic"); ours = here()
        second = tm.enable("traffic")
        assert here() == ours
        first.undo(); first.undo()
        assert is_ours() and second.active
        second.undo()
        assert is_upstream()
        """,
    "undo in any order": """
        a = tm.enable("traffic"); b = tm.enable("stock"); c = tm.enable("traffic")
        b.undo(); assert tm.active().name == "traffic" and is_ours()
        a.undo(); assert tm.active().name == "traffic" and is_ours()
        c.undo(); assert tm.active().name == "stock" and is_upstream()
        """,
    "the latest that is not undone decides": """
        a = tm.enable("traffic"); b = tm.enable("stock")
        assert tm.active().name == "stock"
        b.undo(); assert tm.active().name == "traffic"
        """,
    "disable undoes everything": """
        handles = [tm.enable("traffic") for _ in range(3)]
        tm.disable(); tm.disable()
        assert is_upstream() and not any(h.active for h in handles)
        handles[0].undo(); assert is_upstream()
        """,
    "enable again after disable": """
        tm.enable("traffic"); tm.disable(); tm.enable("traffic")
        assert is_ours()
        """,
    "a block ends with its hooks gone": """
        with tm.policy("traffic"):
            assert is_ours() and tm.active().name == "traffic"
        assert is_upstream()
        """,
    "a block ends after an exception too": """
        try:
            with tm.policy("traffic"):
                raise KeyError
        except KeyError:
            pass
        assert is_upstream() and tm.active().name == "stock"
        """,
    "a block inside enable and around it": """
        with tm.policy("traffic"):
            handle = tm.enable("traffic")
        assert is_ours()
        with tm.policy("stock"):
            assert tm.active().name == "stock" and is_ours()
            handle.undo()
        assert is_upstream()
        """,
    "disable inside a block keeps the block": """
        with tm.policy("traffic"):
            tm.disable()
            assert is_ours() and tm.active().name == "traffic"
        assert is_upstream()
        """,
    "a block is of its thread, enable of the process": """
        seen = []
        look = lambda: seen.append(tm.active().name)
        with tm.policy("traffic"):
            t = threading.Thread(target=look); t.start(); t.join()
        tm.enable("traffic")
        t = threading.Thread(target=look); t.start(); t.join()
        assert seen == ["stock", "traffic"]
        """,
    "options install nothing": """
        assert set(tm.options("traffic")) == {"post_grad_custom_post_pass"}
        assert is_upstream()
        """,
    "a handle is a context manager": """
        with tm.enable("traffic"):
            assert is_ours()
        assert is_upstream()
        """,
    "a misspelt policy changes nothing": """
        for call in (tm.enable, tm.options, lambda n: tm.policy(n).__enter__()):
            try:
                call("trafic")
            except tm.UnknownPolicyError as error:
                assert "traffic" in str(error)
            else:
                raise AssertionError(call)
        assert is_upstream()
        """,
    "somebody else's patch is an error that names them": """
        def theirs(self, users, **kw):
            return False
        ir.StorageBox.should_realize_on_reuse = theirs
        try:
            tm.enable("traffic")
        except tm.UnsupportedTorchError as error:
            assert "should_realize_on_reuse" in str(error) and "theirs" in str(error), error
            assert len(error.mismatches) == 1
        else:
            raise AssertionError
        assert cfx.compile_fx is UPSTREAM[1] and tm.active().name == "stock"
        """,
    "a patch on top of ours survives our undo": """
        handle = tm.enable("traffic"); ours = ir.StorageBox.should_realize_on_reuse
        theirs = lambda self, users, **kw: ours(self, users, **kw)
        ir.StorageBox.should_realize_on_reuse = theirs
        handle.undo()
        assert ir.StorageBox.should_realize_on_reuse is theirs
        assert cfx.compile_fx is UPSTREAM[1]
        assert torch.compile(lambda x: (x + 1, x + 2))(torch.ones(3))[0][0] == 2
        """,
    "a block that is closed in another context": """
        import contextvars
        block = tm.policy("traffic")
        contextvars.copy_context().run(block.__enter__)
        assert is_ours()
        block.__exit__(None, None, None)
        assert is_upstream() and tm.active().name == "stock"
        """,
    "options leave nothing behind after a compile": """
        f = torch.compile(lambda x: (x + 1, x * 2), options=tm.options("plan"))
        assert f(torch.ones(3))[0][0] == 2
        assert is_upstream()
        """,
    "a graph keeps its hooks when another thread ends a block meanwhile": """
        from torch._inductor import graph as lowering
        init = lowering.GraphLowering.__init__
        seen = []
        with tm.policy("traffic"):
            options = tm.options("traffic")
        class Between(type(options["post_grad_custom_post_pass"])):
            def __call__(self, graph, is_inference=False):
                with tm.policy("traffic"):
                    super().__call__(graph, is_inference)
                seen.append(is_ours())
        own = options["post_grad_custom_post_pass"]
        options["post_grad_custom_post_pass"] = Between(own.policy, own.chained)
        torch.compile(lambda x: (x + 1, x * 2), options=options)(torch.ones(3))
        assert seen == [True] and is_upstream()
        """,
    "a policy made by hand is checked, too": """
        for bad in (tm.Policy("typo"), tm.Policy("plan", {"speed": "1"})):
            try:
                tm.options(bad)
            except tm.UnknownPolicyError:
                pass
            else:
                raise AssertionError(bad)
        """,
    "auto without the variable": """
        import torch_materialize.auto as auto
        assert auto.handle is None and is_upstream()
        """,
}


@pytest.mark.parametrize("name", ORDERS, ids=lambda name: name.replace(" ", "-"))
def test_order(name):
    run(ORDERS[name])


def test_auto_enables_from_the_environment():
    run(
        """
        import torch_materialize.auto as auto
        assert is_ours() and tm.active().name == "traffic"
        import torch_materialize.auto
        auto.handle.undo()
        assert is_upstream()
        """,
        TORCH_MATERIALIZE="traffic",
    )


@pytest.mark.parametrize("name", ["1", "on", "True", " plan "])
def test_auto_on_is_the_default_policy(name):
    run("import torch_materialize.auto\nassert tm.active().name == 'plan'", TORCH_MATERIALIZE=name)


@pytest.mark.parametrize("name", ["stock", "0", "", "off", "False"])
def test_auto_off(name):
    run("import torch_materialize.auto\nassert is_upstream()", TORCH_MATERIALIZE=name)


def test_auto_with_a_misspelt_policy_logs_one_line_and_leaves_stock():
    done = run(
        "import torch_materialize.auto, importlib\n"
        "importlib.reload(torch_materialize.auto)\nassert is_upstream()",
        TORCH_MATERIALIZE="trafic",
    )
    assert done.stderr.count("is ignored") == 1


def test_auto_on_a_changed_torch_logs_once_and_leaves_stock():
    done = run(
        """
        ir.StorageBox.should_realize_on_reuse = lambda self, users: False
        import torch_materialize.auto
        assert cfx.compile_fx is UPSTREAM[1]
        """,
        TORCH_MATERIALIZE="traffic",
    )
    assert done.stderr.count("is ignored") == 1
    assert "should_realize_on_reuse" in done.stderr


def test_a_surprise_of_ours_is_logged_once_and_compiles_as_stock():
    done = run(
        """
        from torch_materialize.core import local
        local.decide = None  # breaks our rule, not upstream
        tm.enable("traffic")
        x = torch.randn(8, 8)
        def f(x):
            y = x.exp() + x
            return y * 2, y.sum(-1), y - 1
        got, want = torch.compile(f)(x), f(x)
        assert all(torch.allclose(a, b) for a, b in zip(got, want))
        """,
        TORCH_MATERIALIZE_STRICT="0",
    )
    assert done.stderr.count("Inductor decides as stock") == 1
