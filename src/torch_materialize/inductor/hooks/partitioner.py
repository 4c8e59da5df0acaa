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
from typing import Any

from torch._functorch import config as functorch_config
from torch._functorch import partitioners
from torch._inductor.custom_graph_pass import CustomPartitionerFn
from torch.fx import Graph, GraphModule, Node

from ... import activation
from ...core.policy import Policy
from ...core.saving import Saving
from ...events import log, once, surprise
from ..fx.post_grad import copy_graph, fake_mode_of
from ..partition.joint import Joint
from ..partition.measured import HERE, Place, measured
from ..partition.search import search
from ..partition.upstreams import deciding, partition
from . import sites

__all__ = ["CONFIG_KEY", "CUT_KEY", "Partitioner", "partitioner_options"]

#: The Inductor setting that carries it.
CONFIG_KEY = "custom_partitioner_fn"
#: In the meta of a forward's module that was cut for a planned device: the :class:`.Saving`, where
#: the cut is not stock's.
CUT_KEY = "torch_materialize_cut"
_SEAM = "config.custom_partitioner_fn"


class Partitioner(CustomPartitionerFn):
    """Cuts joint graphs as a policy wants; compared and copied by value.

    ``place`` is where cuts are measured: the device at hand, or one that is planned for.
    """

    def __init__(self, policy: Policy, fingerprint: str, place: Place = HERE) -> None:
        self.policy = policy
        self.fingerprint = fingerprint
        self.place = place

    def __call__(
        self, gm: GraphModule, joint_inputs: Sequence[object], **how: Any
    ) -> tuple[GraphModule, GraphModule]:
        """The forward and the backward of a joint graph.

        Raises:
            Exception: whatever upstream's partitioner raises.
        """
        cuts: list[Saving] = []
        choose = functools.partial(self._choose, joint_inputs, how, cuts)
        halves: tuple[GraphModule, GraphModule]
        with contextlib.ExitStack() as stack:
            try:
                if not activation.is_given_up():
                    stack.enter_context(sites.installed_for(self))
                    stack.enter_context(deciding(choose))
            except Exception as error:  # noqa: BLE001 - a compile never fails because of us
                surprise(_SEAM, error)
            halves = partitioners.min_cut_rematerialization_partition(gm, joint_inputs, **how)
        if self.place is not HERE and cuts:
            halves[0].meta[CUT_KEY] = cuts[-1]
        return halves

    def _choose(
        self,
        inputs: Sequence[object],
        how: dict[str, Any],
        cuts: list[Saving],
        graph: Graph,
        info: Any,
        stocks: Callable[[], list[Node]],
    ) -> list[Node]:
        """What to save."""
        if functorch_config.activation_memory_budget != 1:
            if self.policy.memory is not None:
                once(
                    "activation_memory_budget",
                    logging.WARNING,
                    "plan: memory=%g is not applied: torch._functorch.config."
                    "activation_memory_budget is set, and it decides what a forward saves. "
                    "Unset one of the two.",
                    self.policy.memory,
                )
            return stocks()
        joint = Joint(graph, info, stocks())

        def measure(saved: Sequence[Node]) -> Any:
            names = frozenset(node.name for node in saved)
            halves = partition(
                copy_graph(graph.owning_module),
                inputs,
                how,
                lambda other, *_: [node for node in other.nodes if node.name in names],
            )
            return measured(halves, fake_mode_of(graph), self.place)

        chosen = search(joint, self.policy.memory, measure)
        if chosen is None:
            return stocks()
        log.info("%s: %s", self.policy, chosen.saving)
        cuts.append(chosen.saving)
        return list(chosen.saved)

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
    policy: Policy, fingerprint: str, current: Callable[[str], Any], place: Place = HERE
) -> dict[str, Any]:
    """The Inductor setting that cuts joint graphs as ``policy`` wants; none where a program's
    partitioner is set, which keeps its place.
    """
    if not policy.plans or policy.numerics == "stock":
        return {}
    other = current(CONFIG_KEY)
    if other is not None and not isinstance(other, Partitioner):
        if policy.memory is not None:
            log.warning(
                "plan: memory=%g is not applied: config.custom_partitioner_fn is %r, which decides "
                "what a forward saves. Unset it, or leave memory= out.",
                policy.memory,
                type(other).__name__,
            )
        return {}
    return {CONFIG_KEY: Partitioner(policy, fingerprint, place)}
