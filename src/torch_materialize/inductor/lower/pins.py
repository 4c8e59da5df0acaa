"""What the pins of a model mean to Inductor: the lowerings of ``keep`` and ``inline``.

Both are lowered to their argument.  ``keep`` realizes it first.  ``inline`` changes the class of
its StorageBox, so that the rules that materialize by counting pass it by, under every policy and
under none; and the box knows when something needs a buffer all the same, and who.  So what
cannot be honoured is reported from where it happens, and no hook is needed.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._inductor import ir, lowering
from torch._inductor.virtualized import V

from ...errors import UnsupportedTorchError
from ...events import once, surprise
from ..contract import seams
from ..read.pin_nodes import KEEP, is_pin, is_written, readers, root_of, source_line
from ..read.storage import storage_of

__all__ = ["Recomputed", "failures", "quiet", "register"]

_lock = threading.Lock()
_state = threading.local()
# Holds one entry once the operators were registered, or could not be on this torch.
_tried: list[bool] = []
_REGISTER = "torch._inductor.lowering:register_lowering"
# Upstream materializes larger bodies (operations) whatever anybody wants: it recurses over them.
_LARGE = 100
_TOO_LARGE = "its body is too large to be recomputed"
_KEPT = "it is pinned by keep, too"
_RETURNED = "the graph returns it, to its caller or to the backward"


def register() -> None:
    """Registers how to lower the two operators; twice is once.

    Where this torch is not one that we checked, that is logged once; the operators then run as
    they do without a compiler that knows them: as copies.
    """
    with _lock:
        if _tried:
            return
        _tried.append(False)
        try:
            seams.require("pins")
            ops = torch.ops.torch_materialize
            lowering.register_lowering(ops.keep.default, type_promotion_kind=None)(_lowers(_keep))
            lowering.register_lowering(ops.inline.default, type_promotion_kind=None)(
                _lowers(_inline)
            )
        except UnsupportedTorchError as error:
            once("pins", logging.WARNING, "keep() and inline() are copies here: %s", error)
        except Exception as error:  # noqa: BLE001 - a compile never fails because of us
            surprise(_REGISTER, error)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside the block (a trial lowering) no pin is reported: the real lowering will do that."""
    before = getattr(_state, "quiet", False)
    _state.quiet = True
    try:
        yield
    finally:
        _state.quiet = before


@contextlib.contextmanager
def failures() -> Iterator[list[Exception]]:
    """What goes wrong with pins inside the block, in this thread; it is reported already.

    A pin that fails is lowered as if it was not there.  A plan of such a graph was made from
    something else than what its author wrote, and is not worth keeping.
    """
    before, _state.failures = getattr(_state, "failures", None), []
    try:
        yield _state.failures
    finally:
        _state.failures = before


def _failed(error: Exception) -> None:
    # One name for all of pins: what is wrong with one is wrong wherever it is checked.
    surprise(_REGISTER, error)
    if getattr(_state, "failures", None) is not None:
        _state.failures.append(error)


class Recomputed(ir.StorageBox):
    """The storage of a value pinned by ``inline``: written only where there is no other way."""

    pins: list[torch.fx.Node]
    need: str

    def should_realize_on_reuse(self, users: int, **kwargs: Any) -> bool:
        """Never because of a count."""
        return False

    def has_exceeded_max_reads(self) -> bool:
        """Never because of a count."""
        return False

    def realize_hint(self) -> None:
        """Nothing: whoever really needs a buffer calls ``realize``."""

    def realize(self) -> str | None:
        """Gives in, and reports for whom."""
        if not ir.IRNode.is_realized_node(self.data):
            try:
                self.give_up(self.need or _need(self.data, self.pins[0]))
            except Exception as error:  # noqa: BLE001 - a compile never fails because of us
                _failed(error)
        return super().realize()

    def give_up(self, need: str) -> None:
        """Remembers and reports why there has to be a buffer; "" is nothing to report."""
        self.need = need
        if need:
            for pin in self.pins:
                _report(pin, need)


def _lowers(act: Callable[[Any, torch.fx.Node], Any]) -> Callable[[Any], Any]:
    """A lowering that leaves the value as it is where ours fails."""

    def lower(x: Any) -> Any:
        node = V.current_node
        try:
            return act(x, node)
        except Exception as error:  # noqa: BLE001 - a compile never fails because of us
            _failed(error)
        try:
            return _apart(x, node)
        except Exception:  # noqa: BLE001 - the same again; the operators promise a value of its own
            return _copy(x)

    return lower


def _keep(x: Any, node: torch.fx.Node) -> Any:
    x = _apart(x, node)
    box = storage_of(x)
    if box is None:
        _report(node, "it is a constant, which is written into the kernels that use it")
        return x
    box.realize()
    box.torch_materialize_kept = True
    return x


def _inline(x: Any, node: torch.fx.Node) -> Any:
    x = _apart(x, node)
    box = storage_of(x)
    if box is None:
        return x  # a constant is in the code
    if isinstance(box, Recomputed):
        if box.need:
            _report(node, box.need)
        box.pins.append(node)
        return x
    data = _unwritten(box, node)
    if not isinstance(data, ir.Pointwise):
        _report(node, _reason(box, node))
        return x
    # These take copies of what they read, so nothing will call the box itself.
    need = next(filter(None, map(_copies, readers(node))), "")
    if need:
        _report(node, need)
    # Last, so that what fails leaves the box as it was.
    box.data, box.__class__, box.pins, box.need = data, Recomputed, [node], need
    return x


def _apart(x: Any, node: torch.fx.Node) -> Any:
    """A value of its own where the pin's argument or its result is written into later.

    Upstream's passes take the two for different tensors, and write into either in place.
    """
    if is_written(node) or is_written(node.all_input_nodes[0]):
        return _copy(x)
    return x


def _copy(x: Any) -> Any:
    return lowering.lowerings[torch.ops.aten.clone.default](x)


def _unwritten(box: ir.StorageBox, node: torch.fx.Node) -> Any:
    """What is in a box, without a buffer that only counting made and that nobody has read yet.

    Whoever needs it after all (a matmul further down, upstream's limit on bodies) will realize it.
    """
    buffer = box.data
    if type(buffer) is not ir.ComputedBuffer or type(buffer.data) is not ir.Pointwise:
        return buffer
    # With another layout, somebody relies on its strides.
    if type(buffer.layout) is not ir.FlexibleLayout or _must_stay(box, node):
        return buffer
    return buffer.data


def _must_stay(box: ir.StorageBox, node: torch.fx.Node) -> str:
    """Why a pointwise value that was written stays so, "" where nothing speaks for that."""
    buffer = box.data
    earlier = [r for r in readers(node) if r < node]
    touched = {buffer.get_name(), *(dep.name for dep in buffer.get_reads())}
    if getattr(box, "torch_materialize_kept", False):
        return _KEPT
    if earlier:
        return f"{earlier[0].target} reads it before the pin, and Inductor wrote it for that"
    if not touched.isdisjoint(V.graph.mutated_buffers):
        return "it, or what it is computed from, has been written into"
    return ""


def _reason(box: ir.StorageBox, node: torch.fx.Node) -> str:
    """Why a value that is in memory, or must be, stays there."""
    data, root = box.data, root_of(node)
    if root.op in ("placeholder", "get_attr"):
        return "it is an input of the graph"
    if isinstance(data, ir.ComputedBuffer):
        if isinstance(data.data, ir.Pointwise):
            returned = any(reader.op == "output" for reader in readers(node))
            strides = _RETURNED if returned else "its strides are relied on"
            return _must_stay(box, node) or strides
        data = data.data
    if isinstance(data, ir.Loops | ir.Sort):
        return f"it is the result of a reduction ({root.target})"
    return f"it is the result of {root.target}, which is not fused"


def _need(data: Any, pin: torch.fx.Node) -> str:
    """Why a buffer is needed now; "" where nobody is left to read it.

    Before something is written into, Inductor realizes whatever reads it, needed or not.
    """
    now, left = V.current_node, readers(pin)
    if data.has_large_inner_fn(threshold=_LARGE):
        return _TOO_LARGE
    if not isinstance(now, torch.fx.Node):
        return "Inductor needs it in memory"
    if is_pin(now, KEEP):
        return _KEPT
    if now in left:
        return _RETURNED if now.op == "output" else _reads(now)
    if all(reader < now for reader in left):
        return ""
    return f"{now.target} writes into what it is computed from"


def _copies(reader: torch.fx.Node) -> str:
    if reader.op == "output":
        return _RETURNED
    return _reads(reader) if reader.target in lowering.fallbacks else ""


def _reads(reader: torch.fx.Node) -> str:
    return f"{reader.target} reads it from memory"


def _report(node: torch.fx.Node, reason: str) -> None:
    # Before the question whether to report: what fails here is to fail in a trial lowering already.
    kind = "keep" if is_pin(node, KEEP) else "inline"
    place = source_line(node) or f"{node.name} (its graph has no source lines)"
    if getattr(_state, "quiet", False):
        return
    once(
        f"pin:{kind}:{place}:{reason}",
        logging.WARNING,
        "%s() at %s is not honoured: %s.",
        kind,
        place,
        reason,
    )
