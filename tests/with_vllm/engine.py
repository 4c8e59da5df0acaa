"""One vLLM engine in a process of its own: engine.py REQUEST, a line of JSON on standard output.

The request is JSON: ``model`` (a folder), ``cut`` (:data:`CUTS`) and ``tokens``; with
``as_users_do`` nothing sets up logging for us, and no token is made.  The answer
has the tokens and logprobs of each prompt and way of sampling, what was planned, how vLLM compiled,
the counters of the caches and the seconds until the engine was ready.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time

STARTED = time.monotonic()

# Mode 3, vLLM's IR operators wrapped, custom operators off: all by default.  No CUDA graphs, and so
# no sizes of them to compile for.
_VLLM = {"cudagraph_mode": "NONE", "compile_sizes": []}
#: How vLLM compiles: name -> ``compilation_config``; ``eager`` is not compiled, and calls the
#: operators that compiled code is made of instead of vLLM's kernels, which round otherwise.
CUTS = {
    "eager": {"custom_ops": ["none"]},
    "summed": {"custom_ops": ["none"]},  # eager, but for the order of its sums: see sums.py
    "plain": {},  # what vLLM does on a CPU: the whole graph, by plain torch.compile
    "piecewise": _VLLM,
    "whole": {**_VLLM, "use_inductor_graph_partition": True},
}

PROMPTS = ([5, 17, 256, 900], [42], [7, 7, 7, 300, 301, 302, 303, 11], list(range(100, 150)))
_LINES: list[dict[str, object]] = []
# vLLM's own operators that were lowered, graph by graph.
_LOWERED: list[int] = []


class Lines(logging.Handler):
    """Keeps what torch-materialize says of each graph."""

    def emit(self, record: logging.LogRecord) -> None:
        _LINES.append({"text": record.getMessage(), "planned": getattr(record, "planned", None)})


def main() -> None:
    request = json.loads(sys.argv[1])
    if not request.get("as_users_do"):
        logger = logging.getLogger("torch_materialize")
        logger.setLevel(logging.INFO)
        logger.addHandler(Lines())

    from vllm import LLM, SamplingParams

    if request["cut"] in ("piecewise", "whole"):
        from shim import install

        install()
        _count_lowered()
    if request["cut"] == "summed":
        from sums import install

        install()
    eager = request["cut"] in ("eager", "summed")
    how = CUTS[request["cut"]]
    if how and not eager:
        how = {**how, "pass_config": _no_fusion()}
    engine = LLM(
        request["model"],
        enforce_eager=eager,
        **({"compilation_config": how} if how else {}),
        dtype="bfloat16",
        seed=0,
        max_model_len=256,
        max_num_batched_tokens=256,
        kv_cache_memory_bytes=64 << 20,
        enable_prefix_caching=False,
        disable_log_stats=True,
    )
    ready = time.monotonic() - STARTED
    if request.get("as_users_do"):
        sys.stdout.flush()
        os._exit(0)
    prompts = [{"prompt_token_ids": list(prompt)} for prompt in PROMPTS]
    count = request["tokens"]
    ways = {
        "greedy": SamplingParams(temperature=0, max_tokens=count, logprobs=0, ignore_eos=True),
        "seeded": SamplingParams(
            temperature=0.8, top_p=0.9, seed=7, max_tokens=count, logprobs=0, ignore_eos=True
        ),
    }
    answer: dict[str, object] = {"ready": ready, "lines": _LINES}
    for name, sampling in ways.items():
        outputs = [output.outputs[0] for output in engine.generate(prompts, sampling)]
        answer[name] = {
            "tokens": [list(output.token_ids) for output in outputs],
            "logprobs": [
                [found[token].logprob for token, found in zip(o.token_ids, o.logprobs, strict=True)]
                for o in outputs
            ],
        }
    answer["counters"] = _counters()
    answer["compiles"] = _compiles(engine.llm_engine.vllm_config)
    answer["policy"] = os.environ.get("TORCH_MATERIALIZE")
    sys.stdout.write("\nANSWER " + json.dumps(answer) + "\n")
    sys.stdout.flush()
    os._exit(0)  # an engine may hang when it shuts down


def _no_fusion() -> dict[str, bool]:
    """vLLM's fusion passes off: they name operators that a CPU build does not have."""
    from dataclasses import fields

    from vllm.config.compilation import PassConfig

    names = (field.name for field in fields(PassConfig))
    return {name: False for name in names if name.startswith(("fuse_", "enable_"))}


def _count_lowered() -> None:
    from vllm.compilation.passes.ir.lowering_pass import VllmIRLoweringPass

    upstream = VllmIRLoweringPass.__call__

    def counted(self, graph) -> None:
        _LOWERED.append(sum("vllm_ir" in str(node.target) for node in graph.nodes))
        upstream(self, graph)

    VllmIRLoweringPass.__call__ = counted


def _compiles(config) -> dict[str, object]:
    """What decides about the graphs that are compiled, as vLLM settled it."""
    compilation = config.compilation_config
    names = ("backend", "ir_enable_torch_wrap", "custom_ops", "use_inductor_graph_partition")
    settings = {name: getattr(compilation, name, None) for name in names}
    inductor = {k: str(v) for k, v in compilation.inductor_compile_config.items()}
    return {**settings, "mode": int(compilation.mode), "inductor": inductor, "lowered": _LOWERED}


def _counters() -> dict[str, int]:
    from torch._dynamo.utils import counters
    from vllm.compilation.counter import compilation_counter

    ours = ("fxgraph_cache_hit", "fxgraph_cache_miss", "fxgraph_cache_bypass")
    found = {name: counters["inductor"][name] for name in ours}
    theirs = ("num_inductor_compiles", "num_aot_compiles", "num_aot_artifacts_loaded")
    return found | {name: getattr(compilation_counter, name, -1) for name in theirs}


if __name__ == "__main__":
    main()
