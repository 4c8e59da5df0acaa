"""The Dynamo backend: ``torch.compile(model, backend="materialize")``.

Dynamo finds it by its entry-point group ``torch_dynamo_backends``; the program imports nothing of
ours.  It is Inductor, put under a policy while a graph is compiled.  The first of these names it:

1. the options of the compile, ``options=tm.options("traffic")``;
2. what is on when the graph is compiled, by ``enable`` or in a ``policy`` block, stock too;
3. ``TORCH_MATERIALIZE``;
4. the default, `plan`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from .. import activation
from ..api import policy
from ..core.policy import DEFAULT_POLICY, Policy
from ..environment import policy_from_environment
from ..errors import brief, in_one_line
from ..events import once

__all__ = ["materialize"]


class _Backend:
    """Inductor under a policy; one object serves every compile of the process."""

    __name__ = "materialize"

    def __init__(self) -> None:
        self._used: Any = None

    def __call__(
        self,
        graph: torch.fx.GraphModule,
        inputs: Sequence[Any],
        *,
        mode: str | None = None,
        options: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Callable[..., Any]:
        """Compiles one graph of Dynamo's.

        ``mode``, ``options`` and ``more`` (torch 2.15: ``name``) are what the caller gave to
        ``torch.compile``, and mean what they mean for the backend ``inductor``.  Where a policy
        cannot be had, one line says so and the graph is stock's.

        Raises:
            What Inductor raises, for a mode or an option that it does not know, too.
        """
        inductor = self._inductor(mode, options, more)
        with contextlib.ExitStack() as scope:
            try:
                scope.enter_context(policy(_wanted()))
            except Exception as error:  # noqa: BLE001 - a compile never fails because of us
                once(
                    "backend",
                    logging.WARNING,
                    "backend 'materialize' compiles as stock Inductor: %s",
                    in_one_line(error),
                )
            return inductor(graph, inputs)  # type: ignore[no-any-return]

    def _inductor(
        self, mode: str | None, options: Mapping[str, Any] | None, more: dict[str, Any]
    ) -> Any:
        """What torch makes of the backend ``inductor`` with this mode and these options."""
        try:
            make = torch._TorchCompileInductorWrapper
        except AttributeError as error:
            once("backend-mode", logging.WARNING, "mode %r is left out: %s", mode, brief(error))
            stock = torch._dynamo.lookup_backend("inductor")
            return functools.partial(stock, config_patches=dict(options or {}))
        made = make(mode, options, None, **more)
        if self._used is None or "triton.cudagraphs" in made.config:
            self._used = made
        return made

    def reset(self) -> None:
        """Gives CUDA graphs back with ``torch._dynamo.reset()``, as ``inductor`` does."""
        if self._used is not None:
            self._used.reset()
            self._used = None


def _wanted() -> Policy:
    current = activation.current()
    return policy_from_environment(DEFAULT_POLICY) if current is None else current


#: What the entry point names.
materialize = _Backend()
