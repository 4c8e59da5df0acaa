"""Plan files in a compile: a decision that was made before is used without a search.

It is checked by one trial lowering: what it moves must be what the file claims.  A file that was
written with another torch has to show the same of stock, too, since a later torch's stock may be
better than the plan; and that it rounds whatever is to be rounded there.  Where anything differs, a
line says so and the graph is searched.  "Left to stock" needs no lowering: it cannot be worse.

Ranks of a process group go by one set of files (:func:`plans_for`).
"""

from __future__ import annotations

import base64
import functools
import json
import logging
import time
import zlib
from dataclasses import fields, replace
from typing import Any

import torch
from torch._inductor import config
from torch.utils import _pytree as pytree

from ...core.dag import Dag
from ...core.graph import Graph
from ...core.policy import Policy
from ...core.traffic import traffic
from ...errors import RecordError, in_one_line
from ...events import count, log, once
from ...results.plan_file import (
    Check,
    Moved,
    PlanFile,
    PlannedNode,
    Plans,
    folder_of,
    in_folder,
)
from ...results.source_text import relative_source
from ...versions import installed_versions
from ..fx.canonical import Canonical, canonical
from ..fx.casts import folded, is_cast
from ..fx.decision import NO_CHANGE, SWITCHES, Decision
from ..fx.layers import Shortened, shorten
from ..fx.post_grad import PostGrad
from ..fx.rounding import to_round
from ..lower.trial import LoweringError, trial
from ..read.at_hand import device_of
from ..read.module_of import module_of
from ..read.pin_nodes import source_line
from .plan_key import plan_key
from .process_group import Store, cannot_agree, group_key, has_ranks

__all__ = [
    "checked",
    "decision_of",
    "from_file",
    "is_of_this_torch",
    "moved",
    "nodes_of",
    "plans_for",
    "without_findings",
]

# More is not shared between ranks: the store is in one process's memory.
_LARGEST = 1 << 20
# Field of a decision -> what a file calls it.
_WORDS = {"store": "realized", "rounded": "rounded", "marked": "written", "casts": "narrow"}


def from_file(graph: PostGrad, policy: Policy) -> Decision | None:
    """What a plan file says about ``graph``, checked; None where it is to be searched.

    `tune` goes by what was measured with just what is here, and looks for that itself.
    """
    plans = plans_for(policy) if policy.name != "tune" else None
    if plans is None:
        return None
    started = time.monotonic()
    form = canonical(graph.module)
    key = plan_key(form, graph, policy, device_of(graph.inputs))
    try:
        plan = plans.find(key)
    except RecordError as error:
        log.warning("plan: %s: searched: %s", graph.described, in_one_line(error))
        return None
    if plan is None:
        log.info("plan: %s: searched: no plan file %s in %s", graph.described, key, plans.where)
        return None
    decision = decision_of(plan, form)
    problem = (
        "it names nodes that the graph has not, or a setting that this torch has not"
        if decision is None
        else _unlike(graph, plan, policy)
    )
    if decision is None or problem:
        log.warning("plan: %s: searched anew: plan file %s: %s", graph.described, key, problem)
        return None
    count(acted=decision.changes)
    log.info(
        "plan: %s: as plan file %s decides, in %.2f s: %s",
        graph.described,
        key,
        time.monotonic() - started,
        ", ".join((f"{len(plan.decisions)} nodes", *plan.settings))
        if decision.changes
        else "left to stock",
    )
    return decision


def plans_for(policy: Policy) -> Plans | None:
    """The plan files that a compile under ``policy`` goes by; None where there are none.

    In a process group what the first rank has that compiles is what all ranks go by, so that they
    decide alike wherever the files are missing or differ; a line says which.
    """
    own = _own(policy)
    if not policy.plans or not has_ranks():
        return own
    try:
        # Ranks may have the folder in different places, and one may lack it.
        theirs = _of_group(group_key(), policy.plan_files, own)
    except Exception as error:  # noqa: BLE001 - whatever a store is, a compile goes on
        cannot_agree(error)
        return own
    if theirs.digest != (own.digest if own else ""):
        once(
            "plans of ranks",
            logging.WARNING,
            "plan: rank %d has other plan files than the first rank of its group to compile, and "
            "goes by that rank's: %d instead of %d",
            torch.distributed.get_rank(),
            len(theirs.files),
            len(own.files) if own else 0,
        )
    return theirs if theirs.files else None


def _own(policy: Policy) -> Plans | None:
    folder = folder_of(policy)
    if folder is None:
        return None
    try:
        return in_folder(folder)
    except RecordError as error:
        once(
            f"plans:{folder}", logging.WARNING, "plan: graphs are searched: %s", in_one_line(error)
        )
        return None


@functools.lru_cache(maxsize=8)
def _published(group: str, name: str, own: str) -> str:
    """What the first rank has published; ``own``, if that is this one."""
    store = Store()
    key = f"plans/{name}"
    return store.look(key) or store.publish(key, own)


def _of_group(group: str, name: str, own: Plans | None) -> Plans:
    files = own.files if own is not None else {}
    where = own.where if own is not None else "the first rank's folder"
    content = json.dumps({name: text.decode(errors="replace") for name, text in files.items()})
    packed = base64.b64encode(zlib.compress(content.encode(), 9)).decode()
    if len(packed) > _LARGEST:
        once(
            "plans:large",
            logging.WARNING,
            "plan: %d plan files are too many for the ranks of a group to share (%d bytes of %d): "
            "graphs are searched. Keep the files of other models in other folders.",
            len(files),
            len(packed),
            _LARGEST,
        )
        packed = base64.b64encode(zlib.compress(b"{}", 9)).decode()
    theirs = _published(group, name, packed)
    found = json.loads(zlib.decompress(base64.b64decode(theirs)))
    return Plans(where, {name: text.encode() for name, text in found.items()})


# A decision, and what a file says of it.


def nodes_of(form: Canonical, decision: Decision) -> tuple[PlannedNode, ...]:
    """What was decided about each node that anything was decided about, in canonical order."""
    found = []
    for place, node in enumerate(form.nodes):
        named = (n for n in _WORDS if node.name in (getattr(decision, n) or frozenset()))
        # A decision also counts what no cast is among those that are not to be folded.
        words = tuple(_WORDS[name] for name in named if name != "casts" or is_cast(node))
        if words:
            found.append(_planned_node(place, node, words))
    return tuple(found)


def _planned_node(place: int, node: torch.fx.Node, decided: tuple[str, ...]) -> PlannedNode:
    tensors = pytree.tree_leaves(node.meta.get("val"))
    value = next((x for x in tensors if isinstance(x, torch.Tensor)), None)
    dtype = "" if value is None else str(value.dtype).removeprefix("torch.")
    return PlannedNode(
        place=place,
        decided=decided,
        operator=str(node.target) if node.op == "call_function" else node.op,
        value="" if value is None else f"{dtype}[{', '.join(map(str, value.shape))}]",
        source=relative_source(source_line(node)),
        module=module_of(node)[0],
    )


def decision_of(plan: PlanFile, form: Canonical) -> Decision | None:
    """The decision of a plan file, for the graph of this form; None if it is not one about it."""
    sets: dict[str, set[str]] = {name: set() for name in _WORDS}
    meant = {word: name for name, word in _WORDS.items()}
    if plan.nodes != len(form.nodes):
        return None
    for one in plan.decisions:
        if not 0 <= one.place < len(form.nodes) or not set(one.decided) <= meant.keys():
            return None
        node = form.nodes[one.place]
        if one.operator != (str(node.target) if node.op == "call_function" else node.op):
            return None
        for word in one.decided:
            sets[meant[word]].add(node.name)
    if sets["store"] and not plan.planned:
        return None
    if not all(name in SWITCHES and name in config._config for name in plan.settings):
        return None
    frozen: dict[str, Any] = {name: frozenset(names) for name, names in sets.items()}
    frozen["settings"] = frozenset(plan.settings)
    return Decision(**{**frozen, "store": frozen["store"] if plan.planned else None})


# Checks.


def moved(graph: Graph) -> Moved:
    """What the fused kernels of a trial lowering come to."""
    total = traffic(graph)
    return Moved(total.bytes, total.kernels)


def checked(graph: PostGrad, decision: Decision, policy: Policy) -> Check:
    """What a compile has to see of ``decision``, from trial lowerings made now.

    Raises:
        LoweringError: Inductor cannot lower the graph so.
    """
    short = _shortened(graph, policy)
    stock, _ = trial(short.graph)
    ours, _ = _as_decided(short, decision, policy) if decision.changes else (stock, None)
    return Check(short.graph.nodes, moved(ours), moved(stock))


def _unlike(graph: PostGrad, plan: PlanFile, policy: Policy) -> str:
    """How what a plan comes to here differs from what its file claims; "" where it does not."""
    decision = decision_of(plan, canonical(graph.module)) or NO_CHANGE
    is_foreign = not is_of_this_torch(plan)
    if not decision.changes and not is_foreign:
        return ""
    short = _shortened(graph, policy)
    claim = plan.check
    if short.graph.nodes != claim.nodes:
        return (
            f"checked on {claim.nodes} nodes without repeated layers; here there are "
            f"{short.graph.nodes}"
        )
    try:
        ours, dag = _as_decided(short, decision, policy)
        stock = trial(short.graph)[0] if is_foreign else None
    except LoweringError as error:
        return f"Inductor cannot lower it so ({error})"
    for what, found, expected in (
        ("it", moved(ours), claim.plan),
        ("stock", moved(stock) if stock is not None else claim.stock, claim.stock),
    ):
        if found != expected:
            return (
                f"{what} should move {expected.bytes} bytes in {expected.kernels} kernels; here "
                f"{found.bytes} in {found.kernels}"
            )
    if is_foreign and policy.numerics == "stored":
        missing = to_round(short.graph.module, dag) - decision.rounded
        if missing:
            return f"{len(missing)} more values are to be rounded here"
    return ""


def is_of_this_torch(plan: PlanFile) -> bool:
    """Whether a plan was made with the torch that is installed, built for whatever device."""
    wanted, found = plan.versions.get("torch", ""), installed_versions()["torch"]
    return wanted.partition("+")[0] == found.partition("+")[0]


def _shortened(graph: PostGrad, policy: Policy) -> Shortened:
    """The graph as a search lowers it."""
    return shorten(folded(graph) if policy.numerics == "stock" else graph)


def without_findings(found: Decision) -> Decision:
    """The decision alone, whatever a search found besides."""
    return Decision(**{one.name: getattr(found, one.name) for one in fields(Decision)})


def _as_decided(short: Shortened, decision: Decision, policy: Policy) -> tuple[Graph, Dag]:
    there = frozenset(node.name for node in short.graph.module.graph.nodes)
    return trial(short.graph, _restricted(decision, there), numerics=policy.numerics)


def _restricted(decision: Decision, names: frozenset[str]) -> Decision:
    """A decision without what it says of other nodes than the named ones."""
    sets = {name: getattr(decision, name) for name in _WORDS}
    left: dict[str, Any] = {n: None if own is None else own & names for n, own in sets.items()}
    return replace(without_findings(decision), **left)
