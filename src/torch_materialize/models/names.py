"""Names of what can be compared, and whether there is such a thing, without loading torch."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ..errors import TargetError
from .published import CONFIGS, CUTS

__all__ = ["BUILT_IN", "LANGUAGE", "Size", "check_runnable", "check_target", "most_tokens"]


@dataclass(frozen=True)
class Size:
    """How large a built-in model is run; None takes the model's own number of layers."""

    tokens: int = 8192
    batch: int = 1
    layers: int | None = None


#: Built-in name -> what it is.
BUILT_IN: Mapping[str, str] = MappingProxyType(
    {
        "llama-3.1-8b": "Llama-3.1-8B (transformers)",
        "qwen3-30b-a3b": "Qwen3-30B-A3B mixture of experts (transformers)",
        "gpt2": "GPT-2 (transformers)",
        "bert-base": "BERT base (transformers)",
        "t5-base": "T5 base (transformers)",
        "fused-add-rmsnorm": "our decoder in vLLM's style: fp32 sum, bf16 residual",
        "fused-add-rmsnorm-hf": "our decoder in transformers' style: bf16 residual add",
    }
)

#: What can only be run: name -> what it is.
LANGUAGE: Mapping[str, str] = MappingProxyType(
    {"language": "our language model: vLLM's norms, attention opaque to the compiler"}
)

# What these models were trained with; a longer input would read past their position table.
_MOST_TOKENS = {"gpt2": 1024, "bert-base": 512, "t5-base": 512}


def check_target(target: str, more: Collection[str] = ()) -> None:
    """Checks that there is such a target, as far as that is known without running anything.

    ``more`` names further models that the caller can build.

    Raises:
        TargetError: there is none; it names the nearest.
    """
    if target in BUILT_IN or target in more:
        return
    if target.startswith("vllm:"):
        _check_vllm(target)
    elif ":" in target:
        _check_function(target)
    else:
        raise TargetError(
            f"unknown target {target!r}: expected file.py:function, vllm:model, one of "
            f"{', '.join(BUILT_IN)}, or a model that `torch-materialize sweep --list` shows."
            f"{_hint(target, [*BUILT_IN, *more])}"
        )


def check_runnable(target: str, planned: Collection[str] = ()) -> None:
    """Checks that there is such a target to run, as far as that is known without running it.

    ``planned`` names models that are traced on fake tensors and have no weights to run with.

    Raises:
        TargetError: there is none, or it cannot run.
    """
    runnable = [*LANGUAGE, *BUILT_IN]
    if target in runnable:
        return
    if target.startswith("vllm:") or target in planned:
        raise TargetError(
            f"{target} is only planned, never run: expected file.py:function or module:function, "
            f"which return a model with weights and its inputs, or one of {', '.join(runnable)}."
        )
    path, colon, name = target.rpartition(":")
    if not colon:
        raise TargetError(
            f"unknown target {target!r}: expected file.py:function, module:function or one of "
            f"{', '.join(runnable)}.{_hint(target, runnable)}"
        )
    if path.endswith(".py") or "/" in path or Path(path).is_file():
        _check_function(target)
    elif not (name.isidentifier() and all(map(str.isidentifier, path.split(".")))):
        raise TargetError(
            f"target {target!r}: expected file.py:function or module:function; found {path!r} "
            "before the colon. Write the module as Python imports it."
        )


def _check_vllm(target: str) -> None:
    name, _, cut = target.removeprefix("vllm:").partition(":")
    if cut and cut not in CUTS:
        raise TargetError(
            f"{target}: expected one of {', '.join(CUTS)}; found {cut!r}.{_hint(cut, CUTS)}"
        )
    if name not in CONFIGS and not Path(name, "config.json").is_file():
        raise TargetError(
            f"vllm:{name}: expected one of {', '.join(CONFIGS)} or a folder with a config.json."
            f"{_hint(name, CONFIGS)}"
        )


def _check_function(target: str) -> None:
    path, _, name = target.rpartition(":")
    if not Path(path).is_file():
        raise TargetError(f"target {target!r}: there is no file {path}")
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (SyntaxError, ValueError, OSError):
        return  # importing it says what is wrong
    names = set(_bound(tree.body))
    if "*" in names or "__getattr__" in names or name in names:
        return
    raise TargetError(f"{path} has no function {name!r}.{_hint(name, names)}")


def _bound(body: list[ast.stmt]) -> Iterator[str]:
    """Names that the statements of a module bind, those inside of its blocks, too."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield statement.name
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield node.name
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
            elif isinstance(node, ast.alias):
                yield node.asname or node.name.partition(".")[0]


def _hint(word: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def most_tokens(target: str, wanted: int) -> int:
    """``wanted`` tokens, or the model's limit where it has a smaller one."""
    return min(wanted, _MOST_TOKENS.get(target, wanted))
