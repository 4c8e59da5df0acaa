"""Operators that upstream takes apart into other steps than those of eager's kernel.

Upstream computes a decomposed operator in fp32 and rounds its result.  Some of eager's kernels
compute in the type of their tensors, so that bf16 and fp16 are rounded after each step, or after
some; some operators are several kernels in eager.  Where it is the other way round, a kernel that
computes in fp32 and a decomposition that rounds in between, the steps are made fp32.

Measured on a CPU with torch 2.11 to 2.15, operator by operator (``tests/test_eager_kernels.py``).
What a GPU's kernels do is read from ATen's sources, of which the operators below are those whose
kernels compute in ``scalar_t`` there, too, and those that are several kernels on any device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils import _pytree as pytree

from .rounding import is_narrow

__all__ = [
    "WRITTEN",
    "inserted",
    "is_number",
    "is_scalar",
    "round_kernels",
    "round_made",
    "rounded_number",
    "widened",
]

_aten = torch.ops.aten
_CAST = torch.ops.prims.convert_element_type.default
# What upstream's emulation leaves on each operator that eager runs, and on none that one becomes.
WRITTEN = "low_precision_pointwise_barrier"
_CPU_BF16, _CPU_FP16, _GPU = "bf16 on a CPU", "fp16 on a CPU", "a GPU"
_CPU = frozenset({_CPU_BF16, _CPU_FP16})
_ANYWHERE = _CPU | {_GPU}
# The steps that are rounded, by the names of their operators and parted by spaces, and where.
_STEPS = {
    _aten.mse_loss: ("sub pow", _ANYWHERE),
    _aten.mse_loss_backward: ("sub mul", _ANYWHERE),
    _aten.huber_loss: ("sub mul where", {_CPU_BF16, _GPU}),
    _aten.huber_loss_backward: ("sub mul where", _ANYWHERE),
    _aten.smooth_l1_loss: ("sub mul pow div where", {_CPU_FP16, _GPU}),
    _aten.binary_cross_entropy: ("sub log log1p maximum mul", _ANYWHERE),
    _aten.binary_cross_entropy_backward: ("sub mul clamp_min div", _ANYWHERE),
    _aten.soft_margin_loss: ("neg mul exp log1p", _ANYWHERE),
    _aten.xlogy: ("log mul", _ANYWHERE),
    _aten.special_xlog1py: ("log1p mul", _ANYWHERE),
    _aten.logsumexp: ("sub exp sum log add", _ANYWHERE),
    _aten.addr: ("mul add", _ANYWHERE),
    _aten.lerp: ("", _ANYWHERE),
    _aten.glu: ("", _ANYWHERE),
    _aten.glu_backward: ("sigmoid", _CPU),
    _aten.logit: ("where sub div log", _CPU),
    _aten.logit_backward: ("sub mul div", _CPU),
    _aten.linalg_cross: ("mul sub", _CPU),
    _aten._log_softmax: ("sum log", _CPU),
}
# Whose steps the backward of an operator has besides its own, since equal nodes are one.
_FORWARDS = {
    _aten.mse_loss_backward: _aten.mse_loss,
    _aten.huber_loss_backward: _aten.huber_loss,
    _aten.binary_cross_entropy_backward: _aten.binary_cross_entropy,
    _aten.logit_backward: _aten.logit,
}
# What makes a tensor of a number.
_CONSTANTS = frozenset({_aten.full.default, torch.ops.prims.scalar_tensor.default})
# Several kernels in eager, of which the decomposition leaves the results in their own type.
_KERNELS = frozenset({_aten.binary_cross_entropy_with_logits})
# Whose quotient may be rounded down; what is so within another operator is its kernel's affair.
_DIVISIONS = frozenset({_aten.div, _aten.floor_divide})


def round_kernels(graph: torch.fx.Graph) -> int:
    """Has a graph round within decomposed operators as eager does; how many nodes it changed."""
    return sum(map(_round_kernel, list(graph.nodes)))


def round_made(graph: torch.fx.Graph) -> int:
    """Has nodes round that were made after a program was traced; of how many it says so.

    Upstream marks what eager runs while it traces.  vLLM lowers operators of its own afterwards to
    what eager runs for them.  Torch 2.13 rounds at each cast, marked or not; 2.11 and 2.12 do not.
    """
    made = [
        node
        for node in graph.nodes
        if node.op == "call_function" and WRITTEN not in node.meta and _is_late(node)
    ]
    for node in made:
        node.meta[WRITTEN] = True
    return len(made)


def _is_late(node: torch.fx.Node) -> bool:
    if not is_narrow(node):
        return False
    operator = node.meta.get("original_aten")
    return node.target is _CAST or getattr(operator, "namespace", "aten") not in ("aten", "prims")


def _round_kernel(node: torch.fx.Node) -> bool:
    operator = _operator(node)
    if node.target is _aten.div.Tensor_mode and operator in _DIVISIONS:
        return _division(node)
    if node.op != "call_function" or not is_narrow(node):
        return False
    if operator in _KERNELS and WRITTEN not in node.meta:
        node.meta[WRITTEN] = True
        return True
    steps, places = _STEPS.get(operator, ("", ()))
    if WRITTEN not in node.meta or _place(node) not in places:
        return False
    if operator is _aten._log_softmax and not _sums_last(node):
        return False  # for other dimensions eager has another kernel
    return _Steps(node, frozenset(steps.split())).rewrite()


def widened(node: torch.fx.Node, number: Callable[[Any], Any] = lambda one: one) -> None:
    """Computes an operator in fp32, its numbers as ``number`` has them, and rounds the result."""
    _Steps(node, frozenset(), number).rewrite()


def _division(node: torch.fx.Node) -> bool:
    """A quotient that is rounded to a whole number; whether it was changed."""
    divisor, takes_size = node.args[1], not all(map(_is_operand, node.args))
    is_floor = node.kwargs.get("rounding_mode") == "floor"
    if is_floor and node.meta["val"].is_floating_point() and not takes_size:
        _floor_division(node)
        return True
    is_one = takes_size or is_number(divisor) or is_scalar(divisor)
    if WRITTEN in node.meta and is_narrow(node) and is_one:
        widened(node)  # eager rounds the result, and no quotient before it
        return True
    return False


def _floor_division(node: torch.fx.Node) -> None:
    """A quotient from what ``fmod`` leaves (``c10::div_floor_floating``); upstream's may be 1 off.

    By a number eager divides in fp32, by a tensor in the tensors' type, step by step; one without
    dimensions on a CPU is a number to it.
    """
    a, b = node.args
    value = node.meta["val"]
    in_fp32 = is_narrow(node) and (is_number(b) or is_scalar(b))
    call = partial(inserted, node, rounds=is_narrow(node) and not in_fp32)
    if in_fp32:
        a = call(_CAST, a, torch.float32)
    if is_number(a):
        held = rounded_number(value.dtype, a)
        a = call(_aten.full.default, [], held, dtype=value.dtype, device=value.device)
    kind = "Scalar" if is_number(b) else "Tensor"
    left = call(getattr(_aten.fmod, kind), a, b)
    is_negative = b < 0 if is_number(b) else call(_aten.lt.Scalar, b, 0)
    differ = call(getattr(_aten.ne, kind), call(_aten.lt.Scalar, left, 0), is_negative)
    is_less = call(_aten.logical_and.default, call(_aten.ne.Scalar, left, 0), differ)
    exact = call(_aten.div.Tensor, call(_aten.sub.Tensor, a, left), b)
    exact = call(_aten.where.self, is_less, call(_aten.sub.Tensor, exact, 1), exact)
    floor = call(_aten.floor.default, exact)
    is_more = call(_aten.gt.Scalar, call(_aten.sub.Tensor, exact, floor), 0.5)
    floor = call(_aten.where.self, is_more, call(_aten.add.Tensor, floor, 1), floor)
    quotient = call(_aten.div.Tensor, a, b)
    zero = call(_aten.mul.Tensor, quotient, 0)  # with its sign
    floor = call(_aten.where.self, call(_aten.ne.Scalar, exact, 0), floor, zero)
    if not is_number(b):
        floor = call(_aten.where.self, call(_aten.eq.Scalar, b, 0), quotient, floor)
    elif b == 0:
        floor = quotient
    if in_fp32:
        floor = inserted(node, _CAST, floor, value.dtype, rounds=True)
    node.replace_all_uses_with(floor)
    node.graph.erase_node(node)


def _is_operand(one: Any) -> bool:
    """Whether an argument is a number or a tensor, and no size."""
    if isinstance(one, torch.fx.Node):
        return isinstance(one.meta.get("val"), FakeTensor)
    return is_number(one)


@dataclass(frozen=True)
class _Steps:
    """The steps of an operator, as they are computed in the place of its last one.

    Steps are copied: other operators may share them, since equal nodes are one.
    """

    last: torch.fx.Node
    rounds: frozenset[str]
    number: Callable[[Any], Any] = lambda one: one
    copies: dict[torch.fx.Node, torch.fx.Node] = field(default_factory=dict)

    def rewrite(self) -> bool:
        """Whether there was anything to do."""
        last, graph = self.last, self.last.graph
        if last.target is _CAST:
            if not any(map(self._rounds, _before(last, self._is_step))):
                return False
            last.replace_input_with(last.args[0], self._step(last.args[0]))
            return True
        wide = self._computed(last)
        with graph.inserting_before(last):
            narrow = graph.call_function(_CAST, (wide, last.meta["val"].dtype))
        narrow.meta = dict(last.meta)
        last.replace_all_uses_with(narrow)
        graph.erase_node(last)
        return True

    def _is_step(self, node: torch.fx.Node) -> bool:
        value = node.meta.get("val")
        if node.target is _CAST or WRITTEN in node.meta or not isinstance(value, FakeTensor):
            return False
        operator = _operator(node)
        if node.target in _CONSTANTS:
            return False
        if is_narrow(node):
            return operator is not None and operator is _operator(self.last)
        own = _operator(self.last)
        if operator is None or operator not in (own, _FORWARDS.get(own)):
            return False  # what a program computes in fp32 is not rounded, either
        return value.dtype == torch.float32 or _compares(node)

    def _step(self, node: torch.fx.Node) -> torch.fx.Node:
        """A step's value in fp32, rounded to the type of the result where eager's kernel does."""
        if node not in self.copies:
            if self._is_step(node):
                wide = self._computed(node)
                self.copies[node] = self._rounded(wide) if self._rounds(node) else wide
            else:
                self.copies[node] = self._in_fp32(node)
        return self.copies[node]

    def _computed(self, node: torch.fx.Node) -> torch.fx.Node:
        operands = {one: self._step(one) for one in node.all_input_nodes}
        rounds = self._rounds(node) or (bool(self.rounds) and _compares(node))
        number = partial(rounded_number, self.last.meta["val"].dtype) if rounds else self.number
        with self.last.graph.inserting_before(self.last):
            copy = self.last.graph.node_copy(node, operands.__getitem__)
        copy.args, copy.kwargs = pytree.tree_map(number, (copy.args, copy.kwargs))
        value = node.meta["val"]
        with value.fake_mode:
            wide = value.to(torch.float32) if is_narrow(node) else value
        copy.meta = _within(node, wide)
        return copy

    def _rounds(self, node: torch.fx.Node) -> bool:
        packet = getattr(node.target, "overloadpacket", None)
        return packet is not None and packet.__name__ in self.rounds

    def _in_fp32(self, node: torch.fx.Node) -> torch.fx.Node:
        """An operand; without dimensions it has no say in the type, and eager rounds it, too."""
        if is_narrow(node):
            return inserted(self.last, _CAST, node, torch.float32)
        value = node.meta.get("val")
        is_wide = isinstance(value, FakeTensor) and value.dtype == torch.float32
        if not is_wide or value.dim() or not self.rounds:
            return node
        return self._constant(node) if node.target in _CONSTANTS else self._rounded(node)

    def _constant(self, node: torch.fx.Node) -> torch.fx.Node:
        """Rounded here, since Inductor folds casts of constants without rounding."""
        with self.last.graph.inserting_before(self.last):
            copy = self.last.graph.node_copy(node)
        number = partial(rounded_number, self.last.meta["val"].dtype)
        copy.args = pytree.tree_map(number, copy.args)
        return copy

    def _rounded(self, wide: torch.fx.Node) -> torch.fx.Node:
        narrow = inserted(self.last, _CAST, wide, self.last.meta["val"].dtype, rounds=True)
        return inserted(self.last, _CAST, narrow, torch.float32)


def inserted(
    place: torch.fx.Node, operator: Any, *operands: Any, rounds: bool = False, **options: Any
) -> torch.fx.Node:
    """An operator before ``place``, a step of it; with ``rounds`` one that eager rounds."""
    values = [x.meta["val"] if isinstance(x, torch.fx.Node) else x for x in operands]
    fakes = (x for x in (*values, place.meta.get("val")) if isinstance(x, FakeTensor))
    with place.graph.inserting_before(place), next(fakes).fake_mode:
        made = place.graph.call_function(operator, operands, options)
        made.meta = _within(place, operator(*values, **options))
    if rounds:
        made.meta[WRITTEN] = True
    return made


def _before(last: torch.fx.Node, is_inside: Callable[[torch.fx.Node], bool]) -> set[torch.fx.Node]:
    """The nodes that lead to the last one, as far as they are inside."""
    found: set[torch.fx.Node] = set()
    waiting = list(last.all_input_nodes)
    while waiting:
        node = waiting.pop()
        if node not in found and is_inside(node):
            found.add(node)
            waiting += node.all_input_nodes
    return found


def _place(node: torch.fx.Node) -> str:
    value = node.meta["val"]
    if not value.is_cpu:
        return _GPU
    return _CPU_BF16 if value.dtype == torch.bfloat16 else _CPU_FP16


def _operator(node: torch.fx.Node) -> Any:
    """The operator of the program, or of its gradients, that a node is a step of."""
    return getattr(node.meta.get("original_aten"), "overloadpacket", None)


def _compares(node: torch.fx.Node) -> bool:
    values = [one.meta.get("val") for one in node.all_input_nodes]
    floats = (isinstance(v, FakeTensor) and v.dtype.is_floating_point for v in values)
    return bool(node.meta["val"].dtype == torch.bool and any(floats))


def _within(node: torch.fx.Node, value: torch.Tensor) -> dict[str, Any]:
    """What is said of a node, for a step with another value that eager does not round."""
    kept = {k: v for k, v in node.meta.items() if k not in ("tensor_meta", WRITTEN)}
    return {**kept, "val": value}


def is_scalar(one: Any) -> bool:
    """Whether an argument is a wide tensor without dimensions on a CPU."""
    if not isinstance(one, torch.fx.Node) or is_narrow(one):
        return False
    value = one.meta.get("val")
    is_one = isinstance(value, FakeTensor) and not value.dim()
    return is_one and value.is_cpu and value.is_floating_point()


def is_number(one: Any) -> bool:
    """Whether an argument is a Python number; a boolean is none."""
    return isinstance(one, int | float) and not isinstance(one, bool)


def rounded_number(dtype: torch.dtype, one: Any) -> Any:
    """A Python number as a tensor of this type holds it; anything else as it is."""
    if not is_number(one):
        return one
    with unset_fake_temporarily():
        held = torch.tensor(float(one), dtype=dtype).item()
    return one if held == one or math.isnan(held) else held


def _sums_last(last: torch.fx.Node) -> bool:
    """Whether what an operator sums is the last dimension."""
    inside = _before(last, lambda node: node.op == "call_function" and WRITTEN not in node.meta)
    sums = (node for node in inside if node.target is _aten.sum.dim_IntList)
    return any(list(node.args[1]) in ([-1], [node.args[0].meta["val"].dim() - 1]) for node in sums)
