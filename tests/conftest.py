from __future__ import annotations

import os

import pytest

# Our own surprises must fail a test instead of falling back to stock.
os.environ.setdefault("TORCH_MATERIALIZE_STRICT", "1")


@pytest.fixture
def dynamo():
    """Dynamo without compiled code from other tests, and our hooks gone afterwards."""
    import torch

    import torch_materialize as tm

    torch._dynamo.reset()
    yield torch._dynamo
    tm.disable()
    torch._dynamo.reset()
