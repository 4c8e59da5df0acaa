"""A graph that was left to stock is in no cache under its policy's key."""

from __future__ import annotations

import contextlib
import random
import types

import pytest
import torch
from torch._dynamo.utils import counters
from torch._functorch import config as functorch_config
from torch._inductor import CompiledArtifact, config, standalone_compile
from torch._inductor.graph import GraphLowering

from tiers import but
from torch_materialize.inductor.hooks import uncached as module
from torch_materialize.inductor.hooks.uncached import is_uncached, uncached

# Another number in each test, so that no cache knows the function.
UNSEEN = 0.0


def f(x, y):
    return ((x + y).sin() * x * UNSEEN).sum()


@pytest.fixture
def caches(dynamo, monkeypatch):
    """The caches that ``conftest.py`` turns off, without an entry for :func:`f`.

    In the usual folder: in another, C++ headers would be compiled once more.
    """
    for settings, name in ((config, "fx_graph_cache"), (functorch_config, "enable_autograd_cache")):
        monkeypatch.setattr(settings._config[name], "env_value_force", True)
    monkeypatch.setitem(globals(), "UNSEEN", random.random())


@pytest.fixture
def given_up(monkeypatch):
    """A context in which lowerings, all or those of backwards, are not to be cached."""

    @contextlib.contextmanager
    def during(*, backward_only=False):
        with monkeypatch.context() as patch:
            upstream = GraphLowering.__init__

            def __init__(self, *args, **kwargs):
                upstream(self, *args, **kwargs)
                if self.is_backward or not backward_only:
                    uncached(self)

            patch.setattr(GraphLowering, "__init__", __init__)
            yield

    return during


def train() -> dict[str, int]:
    """Compiles forward and backward in a process without a past; what the caches had."""
    torch._dynamo.reset()
    counters.clear()
    x = torch.linspace(0, 1, 64).requires_grad_()
    torch.compile(f)(x, x.detach()).backward()
    expected = torch.autograd.grad(f(x, x.detach()), x)[0]
    torch.testing.assert_close(x.grad, expected)
    return {
        "fx": counters["inductor"]["fxgraph_cache_hit"],
        "aot": counters["aot_autograd"]["autograd_cache_hit"],
    }


@pytest.mark.parametrize("bundled", but([False], [False, True]))
def test_what_was_given_up_is_compiled_again(caches, given_up, bundled):
    with functorch_config.patch(bundled_autograd_cache=bundled):
        with given_up():
            assert train()["aot"] == 0
        assert train() == {"fx": 0, "aot": 0}  # and this one is kept
        assert train()["aot"] == 1


@pytest.mark.full
def test_a_backward_that_was_given_up_is_compiled_again(caches, given_up):
    with given_up(backward_only=True):
        train()
    assert train()["aot"] == 0
    assert train()["aot"] == 1


@pytest.mark.parametrize("aot", [False, True])
def test_a_program_that_keeps_what_it_compiled_gets_it(caches, given_up, tmp_path, aot):
    """vLLM saves each piece of a model, and does not start where one cannot be saved."""
    made = []

    def backend(graph, inputs):
        how = {"dynamic_shapes": "from_example_inputs", "options": {}, "aot": aot}
        made.append(standalone_compile(graph, inputs, **how))
        return made[0]

    x, y = torch.linspace(0, 1, 64), torch.linspace(1, 0, 64)
    with given_up():
        torch.compile(f, backend=backend)(x, y)
    made[0].save(path=str(tmp_path / "saved"), format="binary")
    loaded = CompiledArtifact.load(path=str(tmp_path / "saved"), format="binary")
    torch.testing.assert_close(loaded(x, y)[0], f(x, y))


@pytest.mark.full
def test_who_has_decided_to_cache_everything_finds_it_again(caches, given_up, monkeypatch):
    """As vLLM does without ``standalone_compile``."""
    from torch._inductor.codecache import FxGraphCache

    monkeypatch.setattr(FxGraphCache, "_check_can_cache", staticmethod(lambda *_args, **_kw: None))
    with given_up():
        train()
    assert train()["aot"] == 1


@pytest.mark.full
def test_a_torch_that_saves_otherwise_caches_it_and_says_so(given_up, lenient, monkeypatch):
    monkeypatch.setattr(module.seams, "check", lambda _feature: ["another body"])
    with given_up():
        train()
    assert "cached under its policy's key: another body" in lenient.text


def test_the_mark_goes_from_a_lowering_to_what_is_compiled():
    one = types.SimpleNamespace(torchbind_constants={})
    assert not is_uncached(one)
    uncached(one)
    uncached(one)
    assert is_uncached(one)
    assert not is_uncached(object())
