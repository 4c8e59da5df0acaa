"""What is stored is what everyone uses: the promise ``numerics="stored"``.

Inductor computes bf16 and fp16 in fp32.  A kernel that writes such a value goes on with the
unrounded one, while every other kernel reads the rounded one from memory: two different numbers
(pytorch issues 122915, 151352, 195214), and which kernel sees which depends on how the graph
was fused and cut.  Here a value that leaves its kernel is rounded for the users inside of it,
too.  Upstream's ``emulate_precision_casts`` rounds every such value, stored or not, and its
node meta rounds a node's inputs as well; an operator of ours rounds this one value.
"""

from __future__ import annotations

import functools
import math
import operator
from bisect import bisect_left, bisect_right
from collections.abc import Set
from typing import Any

import torch
from torch._inductor import ir, lowering
from torch._inductor.virtualized import ops
from torch.utils import _pytree as pytree

from ...core.dag import Dag, Kind, used_where_written, written
from ...core.policy import Policy
from ..read.pin_nodes import is_written, root_of
from ..read.recording import ROUNDED_AS
from ..read.storage import mutates
from .operators import identity
from .program_order import program_order

__all__ = [
    "NARROW",
    "across",
    "apply_rounding",
    "emulation",
    "exact_casts",
    "is_narrow",
    "rounds",
    "skip_exact_casts",
    "to_round",
    "undo_rounding",
]

_NAME = "rounded"
#: Types that Inductor computes in fp32 and rounds to in memory.
NARROW = (torch.float16, torch.bfloat16)
# Operators whose result holds one of their arguments' numbers at each place, possibly negated, and
# that give a rounded result for rounded arguments: rounding before or after them is the same.
_EXACT = frozenset(
    {
        "aten._unsafe_index",
        "aten._unsafe_view",
        "aten.abs",
        "aten.alias",
        "aten.amax",
        "aten.amin",
        "aten.as_strided",
        "aten.cat",
        "aten.clone",
        "aten.constant_pad_nd",
        "aten.copy",
        "aten.diagonal",
        "aten.embedding",
        "aten.expand",
        "aten.flip",
        "aten.full",
        "aten.full_like",
        "aten.gather",
        "aten.index",
        "aten.index_select",
        "aten.max",
        "aten.maximum",
        "aten.min",
        "aten.minimum",
        "aten.neg",
        "aten.permute",
        "aten.relu",
        "aten.repeat",
        "aten.reshape",
        "aten.roll",
        "aten.select",
        "aten.slice",
        "aten.split",
        "aten.split_with_sizes",
        "aten.squeeze",
        "aten.t",
        "aten.transpose",
        "aten.unbind",
        "aten.unfold",
        "aten.unsqueeze",
        "aten.view",
        "aten.where",
    }
)
# The same of one of several results, by its place.
_EXACT_FIRST = frozenset(
    {
        "aten._adaptive_max_pool2d",
        "aten.adaptive_max_pool2d",
        "aten.adaptive_max_pool3d",
        "aten.fractional_max_pool2d",
        "aten.fractional_max_pool3d",
        "aten.kthvalue",
        "aten.max_pool2d_with_indices",
        "aten.max_pool3d_with_indices",
        "aten.mode",
        "aten.sort",
        "aten.topk",
        "prims._low_memory_max_pool_with_offsets",
    }
)
# The place of a number that such an operator writes besides: the value that fills, or pads.
_FILLING = {"aten.full": 1, "aten.full_like": 1, "aten.constant_pad_nd": 2}
_CAST = torch.ops.prims.convert_element_type.default
_WIDE = (torch.float32, torch.float64)
# Where a longer row of casts begins is not looked for.
_CASTS = 32
_PRODUCTS = frozenset({"aten.mul", "aten.square", "aten.pow"})


def is_narrow(node: torch.fx.Node) -> bool:
    """Whether a node's value is stored with fewer digits than Inductor computes it with."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype in NARROW


def emulation(policy: Policy) -> dict[str, Any]:
    """Upstream's switch for ``numerics="eager"``: set while a model is traced and lowered."""
    return {"emulate_precision_casts": True} if policy.numerics == "eager" else {}


def rounds(module: torch.fx.GraphModule, dag: Dag) -> frozenset[str]:
    """Nodes whose users see another number when they are stored instead of recomputed.

    Those of a narrow dtype, unless they have no more digits than it; and on a GPU products
    that are added to something, which one kernel does with one rounding (FMA) and two do
    with two.
    """
    exact = {v.node for v in dag.values if v.kind is Kind.SOURCE}
    found = set()
    for node in module.graph.nodes:
        if node.op == "placeholder" or _keeps_digits(node, exact):
            exact.add(node.name)
        elif is_narrow(node) or _is_contracted(node):
            found.add(node.name)
    return frozenset(found)


def to_round(module: torch.fx.GraphModule, dag: Dag) -> frozenset[str]:
    """Nodes whose users are to see what a memory holds, for ``numerics="stored"``.

    Those that some kernel of ``dag`` writes rounded and goes on with unrounded; and those that
    nobody writes, but somebody would if the graph were cut at an opaque operator, as vLLM cuts it
    at attention.  What is written and then only read from memory is rounded by that.
    """
    used = dag.nodes(used_where_written(dag))
    exact = _in_memory(dag) | (dag.nodes(written(dag)) - used)
    candidates = (used | across(module, dag)) - exact
    wanted = _behind_exact_operators(module, candidates)
    found = set()
    for node in module.graph.nodes:
        if node.name in exact:
            continue  # what is wanted may be a copy of it
        if node.op == "placeholder" or _keeps_digits(node, exact):
            exact.add(node.name)
        elif node.name in wanted and is_narrow(node) and not is_written(node):
            found.add(node.name)
            exact.add(node.name)
    return frozenset(found)


def _behind_exact_operators(module: torch.fx.GraphModule, names: Set[str]) -> set[str]:
    """The nodes to round so that the named ones are rounded.

    The result of a concatenation, or of any other operator that hands on numbers, is rounded by
    rounding what it is made of: a kernel of its own would have to read the result, otherwise.
    """
    found = set()
    wanted = set(names)
    for node in reversed(module.graph.nodes):
        if node.name not in wanted:
            continue
        sources = _handed_on(node)
        if sources and all(_dtype(x) == _dtype(node) and not is_written(x) for x in sources):
            wanted |= {x.name for x in sources}
        else:
            found.add(node.name)
    return found


def across(module: torch.fx.GraphModule, dag: Dag) -> frozenset[str]:
    """Nodes that are computed before an opaque operator and used behind it, in program order."""
    place = program_order(module.graph)
    in_memory = _in_memory(dag)
    opaque = sorted(place[node] for node in place if _is_opaque(node, in_memory))
    return frozenset(
        root_of(node).name
        for node, start in place.items()
        for user in node.users
        if bisect_right(opaque, start) < bisect_left(opaque, place[user])
    )


def _is_opaque(node: torch.fx.Node, in_memory: Set[str]) -> bool:
    """Whether a node calls an extern kernel, where somebody may cut a graph.

    An allocation has no kernel, and one that only hands on numbers is Inductor's own, though what
    it makes (a concatenation) is in memory whatever is decided.
    """
    if node.op != "call_function" or _handed_on(node) is not None:
        return False
    return mutates(node) or (node.name in in_memory and any(map(_is_tensor, node.all_input_nodes)))


def _in_memory(dag: Dag) -> set[str]:
    return {value.node for value in dag.values if value.kind is Kind.SOURCE}


def apply_rounding(module: torch.fx.GraphModule, names: Set[str]) -> None:
    """Rounds the named nodes for everyone who uses them, in place.

    The rounded value takes the name: what is decided about a node is decided about it.
    """
    for node in [node for node in module.graph.nodes if node.name in names]:
        name = node.name
        with module.graph.inserting_after(node):
            rounded = module.graph.call_function(_rounded(), (node,))
        rounded.meta = dict(node.meta)
        node.replace_all_uses_with(rounded, delete_user_cb=lambda user, ours=rounded: user != ours)
        node.meta[ROUNDED_AS] = name
        node.name, rounded.name = rounded.name, name


def skip_exact_casts(module: torch.fx.GraphModule) -> None:
    """Lets casts read what was widened and narrowed again as it was before, in place.

    No digit is lost in between; but where every cast rounds (``numerics="eager"``), Inductor
    rounds there as well, once in each loop.
    """
    for node, before in exact_casts(module):
        for user in [user for user in node.users if user.target is _CAST]:
            user.replace_input_with(node, before)


def exact_casts(module: torch.fx.GraphModule) -> list[tuple[torch.fx.Node, torch.fx.Node]]:
    """Narrowing casts that lose no digit and that a cast reads, with what they can read instead."""
    found = []
    for node in module.graph.find_nodes(op="call_function", target=_CAST):
        before = _widened_from(node) if is_narrow(node) else None
        if before is None or before is node or not any(u.target is _CAST for u in node.users):
            continue
        if before.meta["val"].stride() == node.meta["val"].stride():
            found.append((node, before))
    return found


def _widened_from(node: torch.fx.Node) -> torch.fx.Node | None:
    """What a cast's value was before it was widened; None where it lost digits on the way."""
    dtype = node.meta["val"].dtype
    for _ in range(_CASTS):
        if node.target is not _CAST or not _floats(node.args[0]):
            break
        node = node.args[0]
        if node.meta["val"].dtype not in (dtype, *_WIDE):
            return None
    return node if node.meta["val"].dtype == dtype else None


def undo_rounding(module: torch.fx.GraphModule) -> None:
    """Takes back every :func:`apply_rounding`."""
    for rounded in module.graph.find_nodes(op="call_function", target=identity(_NAME)):
        node = rounded.args[0]
        rounded.replace_all_uses_with(node)
        module.graph.erase_node(rounded)
        node.name = node.meta.pop(ROUNDED_AS, node.name)


def _keeps_digits(node: torch.fx.Node, exact: Set[str]) -> bool:
    """Whether what Inductor computes for a node has no more digits than its dtype."""
    if not is_narrow(node):
        return False
    dtype = node.meta["val"].dtype
    if node.target is _CAST:
        before = _widened_from(node)
        return before is not None and before.name in exact
    sources = _handed_on(node)
    if sources is None:
        return False
    return all(_dtype(x) == dtype and x.name in exact for x in sources)


def _handed_on(node: torch.fx.Node) -> list[torch.fx.Node] | None:
    """The tensors of which a node's result holds the numbers; None where it computes new ones."""
    made_by, exact = node, _EXACT
    if node.target is operator.getitem:
        made_by = node.all_input_nodes[0]
        exact = _EXACT | _EXACT_FIRST if node.args[1] == 0 else _EXACT
    if not _named(made_by, exact) or not _fills_exactly(made_by):
        return None
    return [x for x in made_by.all_input_nodes if _floats(x)]


def _fills_exactly(node: torch.fx.Node) -> bool:
    """Whether a number that a node writes besides its arguments' is one of its own dtype."""
    place = _FILLING.get(str(node.target).rsplit(".", 1)[0])
    if place is None:
        return True
    value = node.args[place] if len(node.args) > place else node.kwargs.get("value", 0)
    if not isinstance(value, int | float):
        return False
    return math.isnan(value) or torch.tensor(value, dtype=_dtype(node)).item() == value


def _dtype(node: torch.fx.Node) -> torch.dtype:
    """The dtype of a tensor, or of the parts that one was split into."""
    dtype: torch.dtype = pytree.tree_leaves(node.meta["val"])[0].dtype
    return dtype


def _is_contracted(node: torch.fx.Node) -> bool:
    """Whether a compiler for GPUs may make one operation of a node and a sum that reads it."""
    return _floats(node) and node.meta["val"].device.type != "cpu" and _named(node, _PRODUCTS)


def _named(node: torch.fx.Node, names: Set[str]) -> bool:
    return str(node.target).rsplit(".", 1)[0] in names


def _floats(node: torch.fx.Node) -> bool:
    return _is_tensor(node) and node.meta["val"].dtype.is_floating_point


def _is_tensor(node: torch.fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor)


@functools.cache
def _rounded() -> Any:
    rounded = identity(_NAME)
    lowering.register_lowering(rounded, type_promotion_kind=None)(_lower)
    return rounded


def _lower(x: Any) -> Any:
    """Down to the value's own dtype and back to what Inductor computes with."""
    device, dtype, load = x.get_device(), x.get_dtype(), x.make_loader()

    def inner(index: Any) -> Any:
        narrow = ops.to_dtype(load(index), dtype, use_compute_types=False)
        value = ops.to_dtype(narrow, dtype)
        if device.type == "cpu":
            # The C++ backend remembers what it has narrowed and takes that for what it widens
            # again, and drops casts that meet; compilers drop the product (exact for every x).
            value = ops.mul(value, ops.constant(1.0, torch.float32))
        return value

    ranges = list(x.get_size())
    return ir.Pointwise.create(device=device, dtype=dtype, inner_fn=inner, ranges=ranges)
