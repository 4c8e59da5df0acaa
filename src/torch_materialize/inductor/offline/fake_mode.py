"""The mode in which a model is built and traced: no tensor has memory, and few have a value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["fake_mode"]

_ATEN = torch.ops.aten
# What `GradScaler` does to its flag and to its scale changes neither in the step that is traced,
# one of the many whose gradients are finite.
_FINITE = (
    _ATEN._amp_foreach_non_finite_check_and_unscale_.default,
    _ATEN._amp_update_scale_.default,
)
_COPIES = (_ATEN._to_copy.default, _ATEN.clone.default)


def fake_mode() -> FakeTensorMode:
    """A mode for building and tracing a model without memory.

    A scalar made with a value (``torch.full((), 0.0)``) keeps it until something writes to it.
    ``torch.amp.GradScaler`` goes by such scalars: an optimizer runs where no gradient is infinite.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
    # Not a subclass: higher-order operators have their rules for the mode's very type.
    mode.dispatch = _WithScalars(mode.dispatch)
    return mode


def _writes(func: Any) -> bool:
    """Whether an operator may write to an argument; one without a schema may."""
    return not isinstance(func, torch._ops.OpOverload) or func._schema.is_mutable


class _WithScalars:
    """What a fake mode does with an operator, and the values of scalars, which it forgets."""

    def __init__(self, dispatch: Any) -> None:
        self._dispatch = dispatch
        self._scalars: Any = WeakIdKeyDictionary()

    def __call__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is _ATEN._local_scalar_dense.default and args[0] in self._scalars:
            return self._scalars[args[0]]
        result = self._dispatch(func, types, args, kwargs)
        if func is _ATEN.full.default and not args[0] and isinstance(args[1], int | float):
            self._keep(result, args[1])
        elif func in _COPIES and args[0] in self._scalars:
            self._keep(result, self._scalars[args[0]])
        elif self._scalars and func not in _FINITE and _writes(func):
            self._forget(pytree.tree_leaves((args, kwargs)))
        return result

    def _keep(self, scalar: torch.Tensor, value: float) -> None:
        with unset_fake_temporarily():
            self._scalars[scalar] = torch.tensor(value, dtype=scalar.dtype).item()

    def _forget(self, written: Sequence[Any]) -> None:
        """Drops what shares memory with what an operator may have written to."""
        storages = {x.untyped_storage()._cdata for x in written if isinstance(x, torch.Tensor)}
        for known in list(self._scalars):
            if known.untyped_storage()._cdata in storages:
                del self._scalars[known]
