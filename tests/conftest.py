from __future__ import annotations

import logging
import os

import pytest

# Our own surprises must fail a test instead of falling back to stock.
os.environ.setdefault("TORCH_MATERIALIZE_STRICT", "1")
# Each test really lowers its graphs, whatever an earlier test or run left in a cache; the tests
# of the caches turn them on again, in processes and folders of their own.
os.environ["TORCHINDUCTOR_FX_GRAPH_CACHE"] = os.environ["TORCHINDUCTOR_AUTOGRAD_CACHE"] = "0"


@pytest.fixture
def dynamo():
    """Dynamo without compiled code from other tests, and our hooks gone afterwards."""
    import torch

    import torch_materialize as tm

    torch._dynamo.reset()
    yield torch._dynamo
    tm.disable()
    torch._dynamo.reset()


@pytest.fixture
def lenient(monkeypatch, caplog):
    """As users run it: surprises are logged once and not raised."""
    from torch_materialize import events

    monkeypatch.delenv("TORCH_MATERIALIZE_STRICT")
    monkeypatch.setattr(events, "_seen", set())
    caplog.set_level(logging.WARNING, logger="torch_materialize")
    return caplog
