"""Resolves a compare target: a built-in name, or ``file.py:function``."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ..errors import TargetError, place_in
from ..inductor.offline.compiler import Compiler
from ..inductor.offline.fakes import settle
from .building import building
from .decoder import Decoder
from .huggingface import build as build_huggingface
from .names import BUILT_IN, Size, check_target, most_tokens
from .vllm import build as build_vllm

__all__ = ["Built", "called", "import_file", "load", "load_user"]


@dataclass(frozen=True)
class Built:
    """A model and its example inputs, on fake tensors.

    ``unit_bytes`` is the size of one activation (tokens x hidden x 2 bytes), the unit in
    which traffic of a transformer is easiest to read; 0 where a target has none.
    ``compiler`` is how the target's program compiles it, None for ``torch.compile`` alone.
    """

    model: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    unit_bytes: int = 0
    compiler: Compiler | None = None


_DECODER_HIDDEN = 4096
_DECODER_INTERMEDIATE = 16384
_DECODER_LAYERS = 8


def load(target: str, size: Size) -> Built:
    """Builds a target.  Call inside a fake mode, so that nothing is allocated.

    Raises:
        TargetError: there is no such target, or it does not import or build.
    """
    if target in BUILT_IN:
        return _built_in(target, size)
    if target.startswith("vllm:"):
        model, args, hidden, compiler = build_vllm(target[5:], size.tokens, size.layers)
        return Built(model, args, unit_bytes=size.tokens * hidden * 2, compiler=compiler)
    if ":" in target:
        return _from_file(target)
    check_target(target)
    raise TargetError(f"target {target!r} is a model of the corpus, which is built otherwise")


def _built_in(target: str, size: Size) -> Built:
    tokens = most_tokens(target, size.tokens)
    if target.startswith("fused-add-rmsnorm"):
        style = "hf" if target.endswith("-hf") else "vllm"
        layers = _DECODER_LAYERS if size.layers is None else size.layers
        decoder = Decoder(layers, _DECODER_HIDDEN, _DECODER_INTERMEDIATE, style).eval()
        rows = size.batch * tokens
        x = torch.zeros(rows, _DECODER_HIDDEN, dtype=torch.bfloat16)
        return Built(decoder, (x,), unit_bytes=rows * _DECODER_HIDDEN * 2)
    model, inputs, hidden = build_huggingface(target, size.batch, tokens, size.layers)
    return Built(model, kwargs=inputs, unit_bytes=size.batch * tokens * hidden * 2)


def _from_file(target: str) -> Built:
    path, _, name = target.rpartition(":")
    with building():
        module = import_file(Path(path), target)
        return _settled(called(module, name, target, _ON_FAKES))


def load_user(target: str, how: str) -> Built:
    """Calls a user's builder as it is: outside of any fake mode it allocates what it builds.

    ``target`` is ``file.py:function`` or ``module:function``; ``how`` says in an error how it is
    called.

    Raises:
        TargetError: there is no such file, module or function, or it does not build.
    """
    path, _, name = target.rpartition(":")
    if path.endswith(".py") or Path(path).is_file():
        module = import_file(Path(path), target)
    else:
        module = _import_module(path, target)
    return called(module, name, target, how)


def _import_module(name: str, target: str) -> ModuleType:
    # As `python -m` does: modules beside the reader are found.
    sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise TargetError(
            f"target {target!r}: importing {name} raised {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove("")


_ON_FAKES = "on fake tensors and must return (model, inputs); weights need no values"


def called(module: ModuleType, name: str, target: str, how: str) -> Built:
    """What a user's builder returns.

    Raises:
        TargetError: there is no such function, it raises, or it returns something else.
    """
    path = Path(module.__file__ or module.__name__)
    function = getattr(module, name, None)
    if not callable(function):
        names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        close = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise TargetError(f"{path} has no function {name!r}.{hint}")
    try:
        result = function()
    except (Exception, SystemExit) as error:
        raise TargetError(
            f"{target} raised {type(error).__name__}{place_in(error, path)}: {error}. It is "
            f"called without arguments {how}."
        ) from error
    return _checked(target, result)


def _settled(built: Built) -> Built:
    """Where the builder left weights or inputs on the meta device, they are on the CPU, too."""
    args, kwargs = settle(built.model, built.args, built.kwargs)
    return replace(built, args=args, kwargs=kwargs)


def import_file(path: Path, target: str) -> ModuleType:
    """Runs a Python file as a module of its own; ``target`` is how messages call it.

    Raises:
        TargetError: it is not there, or raises.
    """
    if not path.is_file():
        raise TargetError(f"target {target!r}: there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"torch_materialize_target_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise TargetError(f"target {target!r}: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Registered so that pickling and dataclasses in the user's file find their module, and
    # with the file's folder first so that it can import its neighbours.
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise TargetError(
            f"target {target!r}: importing {path} raised {type(error).__name__}"
            f"{place_in(error, path)}: {error}"
        ) from error
    finally:
        sys.path.pop(0)
    return module


def _checked(target: str, result: Any) -> Built:
    expected = "(model, inputs), with a module or function and a tuple, dict or tensor of inputs"
    if not isinstance(result, tuple) or len(result) != 2 or not callable(result[0]):
        raise TargetError(f"{target} returned {_short(result)}; expected {expected}")
    model, inputs = result
    if isinstance(model, torch.nn.Module):
        model = model.eval()
    if isinstance(inputs, torch.Tensor):
        return Built(model, (inputs,))
    if isinstance(inputs, Mapping):
        return Built(model, kwargs=dict(inputs))
    if isinstance(inputs, Iterable):
        return Built(model, tuple(inputs))
    raise TargetError(f"{target} returned inputs {_short(inputs)}; expected {expected}")


def _short(value: Any) -> str:
    text = repr(value)
    kind = type(value).__name__
    return f"{kind} {text[:60]}..." if len(text) > 60 else f"{kind} {text}"
