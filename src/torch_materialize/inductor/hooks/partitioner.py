"""The choice of what a forward saves, in a real compile.

``config.custom_partitioner_fn`` is the seam: its ``uuid()`` is in the keys of Inductor's caches and
it travels in the options of one compile.  What it runs is upstream's own partitioner
(:mod:`..partition.upstreams`).  A partitioner that a program has set stays in its place.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch._functorch import partitioners
from torch._inductor.custom_graph_pass import CustomPartitionerFn
from torch.fx import Graph, GraphModule, Node

from ... import activation
from ...core.limits import Limits
from ...core.policy import MEMORY, Policy
from ...core.saving import Kept, LoweredCut, Saving
from ...errors import LeftToStockError
from ...events import log, once, surprise
from ..fx.post_grad import copy_graph, fake_mode_of
from ..partition.joint import Joint
from ..partition.kept import KEPT_KEY, kept_of
from ..partition.measured import HERE, Place, measured
from ..partition.search import search
from ..partition.upstreams import Stock, deciding, partition
from . import sites

__all__ = ["CONFIG_KEY", "CUT_KEY", "Partitioner", "partitioner_options"]

#: The Inductor setting that carries it.
CONFIG_KEY = "custom_partitioner_fn"
#: In the meta of a forward's module that was cut for a planned device: the :class:`.Saving`, where
#: the cut is not stock's.
CUT_KEY = "torch_materialize_cut"
_SEAM = "config.custom_partitioner_fn"


@dataclass
class _Record:
    """What is found on the way through one joint graph."""

    saving: Saving | None = None
    kept: Kept | None = None


class Partitioner(CustomPartitionerFn):
    """Cuts joint graphs as a policy wants; compared and copied by value.

    ``place`` is where cuts are measured: the device at hand, or one that is planned for; then
    forwards carry :data:`CUT_KEY` and :data:`KEPT_KEY`, with the curve of other cuts if
    ``with_curve``.
    """

    def __init__(
        self, policy: Policy, fingerprint: str, place: Place = HERE, with_curve: bool = False
    ) -> None:
        self.policy = policy
        self.fingerprint = fingerprint
        self.place = place
        self.with_curve = with_curve

    def __call__(
        self, gm: GraphModule, joint_inputs: Sequence[object], **how: Any
    ) -> tuple[GraphModule, GraphModule]:
        """The forward and the backward of a joint graph.

        Raises:
            MemoryBudgetError: the step cannot do with as little memory as the policy allows.
            Exception: whatever upstream's partitioner raises.
        """
        record = _Record()
        choose = functools.partial(self._choose, joint_inputs, how, record)
        halves: tuple[GraphModule, GraphModule]
        with contextlib.ExitStack() as stack:
            try:
                if not activation.is_given_up():
                    stack.enter_context(sites.installed_for(self))
                    stack.enter_context(deciding(choose))
            except Exception as error:  # noqa: BLE001 - a compile never fails because of us
                surprise(_SEAM, error)
            halves = partitioners.min_cut_rematerialization_partition(gm, joint_inputs, **how)
        if record.kept is not None:
            halves[0].meta[KEPT_KEY] = record.kept
            if record.saving is not None:
                halves[0].meta[CUT_KEY] = record.saving
        return halves

    def _choose(
        self,
        inputs: Sequence[object],
        how: dict[str, Any],
        record: _Record,
        graph: Graph,
        info: Any,
        stock: Stock,
    ) -> list[Node]:
        """What to save."""
        joint = Joint(graph, info, stock.saved())
        chosen = None
        if stock.budget == 1:
            try:
                chosen = search(joint, self.policy, self._measure(graph, inputs, how))
            except LeftToStockError as error:
                log.warning("plan: a joint graph of %d nodes: %s", len(joint.nodes), error)
        elif MEMORY in self.policy.settings:
            once(
                "activation_memory_budget",
                logging.WARNING,
                "plan: memory=%s is not applied: upstream's activation_memory_budget is %g, and it "
                "decides what a forward saves. Leave one of the two out.",
                self.policy.settings[MEMORY],
                stock.budget,
            )
        saved = list(chosen.saved) if chosen else joint.saved
        if chosen is not None:
            log.info("%s: %s", self.policy, chosen.saving)
            record.saving = chosen.saving
        if self.place is not HERE:
            record.kept = kept_of(joint, saved, stock if self.with_curve else None)
        return saved

    def _measure(
        self, graph: Graph, inputs: Sequence[object], how: dict[str, Any]
    ) -> Callable[[Sequence[Node]], LoweredCut]:
        """What lowers the two halves of a cut, each cut once."""
        limited = self.policy.peak is not None
        # What was asked for in bytes is looked for, however long that takes.
        most_pairs = None if limited else Limits.pairs

        @functools.cache
        def lowered(names: frozenset[str]) -> LoweredCut:
            halves = partition(
                copy_graph(graph.owning_module),
                inputs,
                how,
                lambda other, *_: [node for node in other.nodes if node.name in names],
            )
            return measured(
                halves, fake_mode_of(graph), self.place, peak=limited, most_pairs=most_pairs
            )

        return lambda saved: lowered(frozenset(node.name for node in saved))

    def uuid(self) -> Any | None:
        """What enters the cache keys."""
        return ("torch-materialize partitioner", self.fingerprint)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Partitioner) and self.uuid() == other.uuid()

    def __hash__(self) -> int:
        return hash(self.uuid())

    def __deepcopy__(self, _memo: Any) -> Partitioner:
        return self

    def __repr__(self) -> str:
        return f"Partitioner({self.policy})"


def partitioner_options(
    policy: Policy,
    fingerprint: str,
    current: Callable[[str], Any],
    place: Place = HERE,
    with_curve: bool = False,
) -> dict[str, Any]:
    """The Inductor setting that cuts joint graphs as ``policy`` wants; none where a program's
    partitioner is set, which keeps its place.
    """
    if not policy.plans or policy.numerics == "stock":
        return {}
    other = current(CONFIG_KEY)
    if other is not None and not isinstance(other, Partitioner):
        if MEMORY in policy.settings:
            log.warning(
                "plan: memory=%s is not applied: config.custom_partitioner_fn is %r, which decides "
                "what a forward saves. Unset it, or leave memory= out.",
                policy.settings[MEMORY],
                type(other).__name__,
            )
        return {}
    return {CONFIG_KEY: Partitioner(policy, fingerprint, place, with_curve)}
