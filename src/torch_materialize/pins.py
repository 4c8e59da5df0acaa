"""``keep`` and ``inline``: what a model's author decides about one tensor, in model code.

Imported on first use and not with the package: it imports torch and defines two operators.
They are what carries a pin through Dynamo, AOTAutograd and Inductor's passes; Inductor learns
what they mean (:mod:`.inductor.lower.pins`) when it first sees one.
"""

from __future__ import annotations

import sys

import torch
from torch.fx.experimental.proxy_tensor import get_proxy_mode

__all__ = ["inline", "keep"]

_NAMESPACE = "torch_materialize"
# Kept for as long as the module is: a library takes its operators with it.
_library = torch.library.Library(_NAMESPACE, "FRAGMENT")


def keep(x: torch.Tensor) -> torch.Tensor:
    """Pins a tensor as written: Inductor computes it once, into a buffer that its readers load.

    Without a compiler it returns ``x`` itself.  Under ``torch.compile`` it wins over every
    policy, stock included.  What is in memory anyway (an input, a matmul's result) is kept
    already; a kept view keeps the tensor that it shows.  Where every reader is fused into the
    kernel that computes the tensor, nobody is left to read the buffer and Inductor leaves the
    write out, as it does with its own buffers.

    Use what it returns, and change neither that nor ``x`` in place while the other is in use:
    compiled, they are two tensors.
    """
    return _pinned(torch.ops.torch_materialize.keep.default, x)


def inline(x: torch.Tensor) -> torch.Tensor:
    """Pins a tensor as never written: every kernel that reads it recomputes it.

    Without a compiler it returns ``x`` itself.  Under ``torch.compile`` it wins over every
    policy.  Where a buffer is needed all the same (the graph returns the tensor or saves it
    for the backward, an extern kernel reads it, it is a reduction's result) one warning of the
    logger ``torch_materialize`` names the line of the pin and the reason.

    Use what it returns, and change neither that nor ``x`` in place while the other is in use:
    compiled, they are two tensors.
    """
    return _pinned(torch.ops.torch_materialize.inline.default, x)


def _pinned(operator: torch._ops.OpOverload, x: torch.Tensor) -> torch.Tensor:
    if not isinstance(x, torch.Tensor):
        name = operator._schema.name.rpartition("::")[2]
        raise TypeError(
            f"torch_materialize.{name}: expected a tensor; found {type(x).__name__}. Pin each "
            "tensor by itself, and use what that returns."
        )
    if torch.compiler.is_compiling() or _is_traced():
        pinned: torch.Tensor = operator(x)
        return pinned
    return x


def _is_traced() -> bool:
    """Whether ``make_fx`` or AOTAutograd runs this code without Dynamo."""
    functional = torch._C._TorchDispatchModeKey.FUNCTIONAL
    return get_proxy_mode() is not None or torch._C._get_dispatch_mode(functional) is not None


def _define(name: str) -> None:
    qualified = f"{_NAMESPACE}::{name}"
    _library.define(f"{name}(Tensor x) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
    # Reached only where an exported program is run as it is: an operator may not return its
    # argument.
    _library.impl(name, torch.clone, "CompositeExplicitAutograd")
    operator = getattr(getattr(torch.ops, _NAMESPACE), name).default

    def fake(x: torch.Tensor) -> torch.Tensor:
        _teach_inductor()
        return torch.empty_like(x)

    def backward(_ctx: object, gradient: torch.Tensor) -> torch.Tensor:
        return gradient

    def batched(_info: object, dims: tuple[int | None, ...], x: torch.Tensor) -> object:
        return operator(x), dims[0]

    torch.library.register_fake(qualified, fake, lib=_library)
    torch.library.register_autograd(qualified, backward, lib=_library)
    torch.library.register_vmap(qualified, batched, lib=_library)


def _teach_inductor() -> None:
    """Registers the lowerings where Inductor is loaded.

    The shape function is the place that every trace passes on its way to Inductor, and by then
    Inductor is loaded; importing it here would cost whoever only exports.
    """
    if "torch._inductor.lowering" in sys.modules:
        from .inductor.lower import pins

        pins.register()


_define("keep")
_define("inline")
