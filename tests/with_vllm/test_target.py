"""``compare vllm:MODEL``: what vLLM would compile, with its own layers."""

from __future__ import annotations

import pytest

from torch_materialize.inductor.offline.capture import fake_mode
from torch_materialize.jobs.explain import compare
from torch_materialize.models.published import CONFIGS
from torch_materialize.models.vllm import build


def bytes_of(target: str, tokens: int = 1024, layers: int = 4):
    found = compare(target, ["stock", "plan"], "h200", tokens=tokens, layers=layers)
    return found, *(found.traffic(policy).bytes for policy in ("stock", "plan"))


@pytest.mark.parametrize("model", CONFIGS)
def test_the_whole_graph_under_plan_moves_less_than_stock_and_than_the_pieces(model):
    whole, stock, plan = bytes_of(f"vllm:{model}")
    pieces, stock_pieces, plan_pieces = bytes_of(f"vllm:{model}:piecewise")
    # One graph; and cut at each of four attentions.
    assert len(whole.graphs) == 1 and len(pieces.graphs) == 5
    assert plan < stock and plan_pieces <= stock_pieces
    assert plan < stock_pieces


def test_expert_kernels_and_attention_stay_opaque():
    found, *_ = bytes_of("vllm:qwen3-next-80b-a3b", tokens=16)
    kernels = [k for k in found.graphs[0].sides["stock"].graph.kernels if k.kind == "extern"]
    assert len(kernels) > 4 * 4


def test_the_graphs_are_those_of_vllms_defaults(monkeypatch):
    """Its own operators stay until after Inductor's passes; a CPU's settings are not a GPU's."""
    lowering = pytest.importorskip("vllm.compilation.passes.ir.lowering_pass")
    upstream, lowered = lowering.VllmIRLoweringPass.__call__, []

    def counted(self, graph):
        lowered.append(sum("vllm_ir" in str(node.target) for node in graph.nodes))
        upstream(self, graph)

    monkeypatch.setattr(lowering.VllmIRLoweringPass, "__call__", counted)
    compare("vllm:llama-3.1-8b", ["stock"], "h200", tokens=16, layers=1)
    assert lowered == [3]
    with fake_mode():
        *_, compiler = build("llama-3.1-8b", 16, 1)
    of_a_cpu = {"dce", "size_asserts", "nan_asserts", "epilogue_fusion", "cpp.dynamic_threads"}
    assert not of_a_cpu & set(compiler.settings)
