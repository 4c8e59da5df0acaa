"""What we lean on in upstream is what we checked: runs on every supported torch."""

from __future__ import annotations

import inspect

import pytest
from torch._inductor import codecache, ir, list_mode_options

from torch_materialize.inductor.contract import seams
from torch_materialize.inductor.contract.seams import SEAMS, Use

pytestmark = pytest.mark.contract

FEATURES = {"policy", "compare", "pins", "ranks", "tune", "uncached", "vllm", "mode", "handover"}
FEATURES |= {"backend", "interpret"}


@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: seam.path)
def test_upstream_object_is_known(seam):
    assert seam.check() is None


@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: seam.path)
def test_row_is_complete(seam):
    assert seam.why
    assert seam.until
    assert set(seam.features) <= FEATURES
    # An object whose body or parameters matter must have digests to compare with.
    assert bool(seam.digests) == (seam.use in (Use.REPLACED, Use.CALLED))


def test_storage_box_has_what_the_review_bot_missed():
    # vLLM PR 42686's review said that these do not exist on StorageBox.
    assert callable(ir.StorageBox.has_large_inner_fn)
    assert callable(ir.StorageBox.num_reads)


def test_signature_is_one_of_the_two_that_we_know():
    parameters = inspect.signature(ir.StorageBox.should_realize_on_reuse).parameters
    assert list(parameters) in (["self", "users"], ["self", "users", "graph_reuse"])


def test_modes_do_not_ask_whether_shapes_are_dynamic():
    """So `options` hands no such thing on."""
    for mode, settings in list_mode_options().items():
        assert settings == list_mode_options(mode, True) == list_mode_options(mode, False)


def test_custom_pass_enters_both_cache_keys():
    # FxGraphHashDetails takes the pass's uuid; the AOTAutograd key is built on the same class.
    from torch._functorch._aot_autograd.autograd_cache import AOTAutogradCacheDetails

    assert "post_grad_custom_post_pass" in inspect.getsource(codecache.FxGraphHashDetails.__init__)
    assert issubclass(AOTAutogradCacheDetails, codecache.FxGraphHashDetails)


def test_a_changed_upstream_is_a_mismatch(monkeypatch):
    def should_realize_on_reuse(self, users):
        return False

    monkeypatch.setattr(ir.StorageBox, "should_realize_on_reuse", should_realize_on_reuse)
    (mismatch,) = seams.check("policy")
    assert mismatch.seam == "torch._inductor.ir:StorageBox.should_realize_on_reuse"
    assert "torch 2.1" in mismatch.required
    assert "test_contract.py" in mismatch.found


def test_a_wrapper_does_not_pass_for_what_it_wraps(monkeypatch):
    import functools

    upstream = ir.StorageBox.should_realize_on_reuse

    @functools.wraps(upstream)
    def wrapper(self, users, **kwargs):
        return upstream(self, users, **kwargs)

    monkeypatch.setattr(ir.StorageBox, "should_realize_on_reuse", wrapper)
    assert len(seams.check("policy")) == 1


def test_a_missing_object_is_a_mismatch(monkeypatch):
    from torch._inductor.graph import GraphLowering

    monkeypatch.delattr(GraphLowering, "get_dep_size_hint")
    (mismatch,) = seams.check("policy")
    assert "nothing" in mismatch.found
