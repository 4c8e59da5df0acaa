"""A graph whose compile fails under a policy is compiled once more, as stock compiles it.

Trial lowerings generate no code, so what only the scheduler, code generation or a compiler of C++
or Triton refuses shows in the compile itself.  Whatever is raised between our decision and the
finished code, the graph is compiled again from a copy that no pass has touched, without a policy.
Where that fails, too, the error is not ours: it is the one that stock raises.  Where it succeeds,
one line says so, strict mode raises, and no cache takes the result for that of the policy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from torch._dynamo.exc import SkipFrame
from torch._inductor import config

from ... import activation
from ...core.policy import Policy
from ...errors import MemoryBudgetError
from ...events import surprise
from ..fx.post_grad import copy_graph
from .chained import passes_in
from .policy_pass import CONFIG_KEY, PolicyPass
from .uncached import uncached

__all__ = ["patch_fx_codegen_and_compile", "suspect"]

_SEAM = "torch._inductor.compile_fx:fx_codegen_and_compile"

_suspects: ContextVar[list[tuple[str, Exception]] | None] = ContextVar(
    "torch_materialize_suspects", default=None
)


def patch_fx_codegen_and_compile(upstream: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps the step from a graph after AOTAutograd to finished code; ungoverned graphs pass on."""

    @functools.wraps(upstream)
    def fx_codegen_and_compile(gm: torch.fx.GraphModule, *args: Any, **kwargs: Any) -> Any:
        if _governing() is None or activation.is_given_up():
            return upstream(gm, *args, **kwargs)
        untouched = _copied(gm)
        suspects: list[tuple[str, Exception]] = []
        token = _suspects.set(suspects)
        try:
            compiled = upstream(gm, *args, **kwargs)
        except (SkipFrame, MemoryBudgetError):
            raise
        except Exception as error:
            if untouched is None:
                raise
            with activation.given_up():
                try:
                    compiled = upstream(untouched, *args, **kwargs)
                except Exception as stocks:
                    raise stocks from None
            surprise(_SEAM, error)
            uncached(compiled)
            return compiled
        finally:
            _suspects.reset(token)
        for seam, suspected in suspects:
            surprise(seam, suspected)
        return compiled

    return fx_codegen_and_compile


def suspect(seam: str, error: Exception) -> None:
    """Notes what a trial lowering of stock's own choice raised.

    It is a surprise of ours only if the compile at hand succeeds; else it is upstream's, which
    that compile raises by itself.
    """
    suspects = _suspects.get()
    if suspects is None:
        surprise(seam, error)
    else:
        suspects.append((seam, error))


def _governing() -> Policy | None:
    """The policy in the settings of the compile at hand, None where stock decides."""
    passes = passes_in(getattr(config, CONFIG_KEY))
    policies = (one.policy for one in passes if isinstance(one, PolicyPass))
    return next((policy for policy in policies if not policy.is_stock), None)


def _copied(gm: torch.fx.GraphModule) -> torch.fx.GraphModule | None:
    try:
        return copy_graph(gm)
    except Exception as error:  # noqa: BLE001 - a compile never fails because of us
        surprise(_SEAM, error)
        return None
