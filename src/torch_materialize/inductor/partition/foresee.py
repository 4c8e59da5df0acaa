"""What a cut will cost, foreseen on the joint graph without lowering it.

Inductor's kernels are guessed: what is fusible, depends on as many unfused kernels as its
neighbours and touches the same data becomes one.  A value that is recomputed is computed in each
kernel that uses it, from what is in memory; where an unfused kernel (a matmul) reads it, it is
written once more.  So dropping the input of a matmul from what is saved, where the kernels that
read its own inputs anyway are in the backward, costs one write.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property

from torch._functorch import partitioners
from torch.fx import Node

from .cut import Cut
from .joint import Joint

__all__ = ["Foresight"]

# What a matmul costs, in the bytes that a GPU could move meanwhile: an H100 does 990 T operations
# of bf16 a second at best and moves 3.35 TB (data sheet), 295 for each byte, an A100 153; about
# half of that is what large matmuls reach.
_OPERATIONS_PER_BYTE = 128


class Foresight:
    """Guesses what cuts of one joint graph cost, beside the cut ``base``."""

    def __init__(self, joint: Joint, base: Cut) -> None:
        self.base = base
        self._joint = joint
        self._operations: dict[Node, float] = {}

    @cached_property
    def base_cost(self) -> float:
        """:meth:`cost` of the base."""
        return self.cost(self.base)

    def more(self, cut: Cut) -> float:
        """The bytes that a cut costs more than the base."""
        return self.cost(cut) - self.base_cost

    def cost(self, cut: Cut) -> float:
        """Bytes that fused kernels move because of what is saved and recomputed, and matmuls'
        work as bytes.  Only differences between two cuts mean anything.
        """
        joint = self._joint
        at_hand = set(cut.saved)
        behind: dict[Node, frozenset[Node]] = {}
        for node in joint.forward:
            if node in cut.recomputed and node not in at_hand:
                behind[node] = self._behind(node, at_hand, behind)
        read: dict[int, set[Node]] = {kernel: set() for kernel in self._kernels.values()}
        for kernel, x in self._read_in_backward:
            read[kernel] |= self._reads(x, at_hand, behind)
        total = float(sum(self._bytes(owners) for owners in read.values()))
        total += sum(self._written(cut, at_hand, behind, list(read.values())))
        total += sum(self._saved_only(cut))
        return total + sum(
            self._work(node) for node in cut.recomputed if not joint.is_fusible(node)
        )

    def _reads(
        self, node: Node, at_hand: set[Node], behind: dict[Node, frozenset[Node]]
    ) -> frozenset[Node]:
        """The storages that a kernel reads to have a value of the forward."""
        if node in behind:
            return behind[node]
        return frozenset([self._joint.owner(node)]) if node in at_hand else frozenset()

    def _behind(
        self, node: Node, at_hand: set[Node], behind: dict[Node, frozenset[Node]]
    ) -> frozenset[Node]:
        joint = self._joint
        if not joint.is_fusible(joint.root(node)):
            return frozenset([joint.owner(node)])  # it ran again, and left a buffer
        return frozenset().union(*(self._reads(x, at_hand, behind) for x in node.all_input_nodes))

    def _bytes(self, owners: Iterable[Node]) -> int:
        return sum(self._joint.nbytes(owner) for owner in owners)

    def _written(
        self,
        cut: Cut,
        at_hand: set[Node],
        behind: dict[Node, frozenset[Node]],
        kernels: list[set[Node]],
    ) -> Iterable[float]:
        """What is recomputed and read by an unfused kernel: written, beside what reads the same."""
        joint = self._joint
        apart = self._forward - cut.recomputed
        reading: defaultdict[Node, list[set[Node]]] = defaultdict(list)
        for read in kernels:
            for owner in read:
                reading[owner].append(read)
        for node in cut.recomputed:
            if joint.is_view(node) or not joint.is_tensor(node) or not joint.is_fusible(node):
                continue
            if node in joint.returned_gradients or joint.read_unfused(node, apart):
                beside = reading[max(behind[node], key=self._largest)] if behind[node] else []
                lacking = (self._bytes(behind[node] - read) for read in beside)
                yield joint.nbytes(node) + min(lacking, default=self._bytes(behind[node]))

    def _largest(self, node: Node) -> tuple[int, int]:
        return self._joint.nbytes(node), -self._joint.place[node]

    def _saved_only(self, cut: Cut) -> Iterable[float]:
        """What the forward writes for no one but the backward."""
        joint = self._joint
        owners = {joint.owner(node) for node in cut.saved}
        return (joint.nbytes(owner) for owner in owners if not joint.is_in_memory(owner))

    def _work(self, node: Node) -> float:
        """What running a matmul, a convolution or an attention again takes, as bytes."""
        if node not in self._operations:
            try:
                self._operations[node] = partitioners.estimate_runtime(node)
            except Exception:  # noqa: BLE001 - an operator that cannot be counted is not run again
                # Where every cut runs it again (a call of a higher-order operator), it makes no
                # difference between cuts.
                known = node in self.base.recomputed
                self._operations[node] = 0.0 if known else float("inf")
        moved = self._bytes(node.all_input_nodes) + self._joint.result_bytes(node)
        return max(self._operations[node] / _OPERATIONS_PER_BYTE, moved)

    @cached_property
    def _forward(self) -> set[Node]:
        return set(self._joint.forward)

    @cached_property
    def _read_in_backward(self) -> list[tuple[int, Node]]:
        """Which kernel uses which value of the forward."""
        return [
            (kernel, x)
            for node, kernel in self._kernels.items()
            for x in node.all_input_nodes
            if x not in self._joint.backward
        ]

    @cached_property
    def _kernels(self) -> dict[Node, int]:
        """The backward's fusible nodes, each with the number of the kernel guessed for it."""
        joint = self._joint
        stages: dict[Node, int] = {}
        group: dict[object, object] = {}

        def find(one: object) -> object:
            while group.setdefault(one, one) is not one:
                group[one] = group[group[one]]
                one = group[one]
            return one

        for node in joint.nodes:
            if node not in joint.backward:
                continue
            before = [x for x in node.all_input_nodes if x in stages]
            stages[node] = max((stages[x] + (not joint.is_fusible(x)) for x in before), default=0)
            if not joint.is_fusible(node):
                continue
            for x in node.all_input_nodes:
                if x in joint.backward:
                    if joint.is_fusible(x) and stages[x] == stages[node]:
                        group[find(x)] = find(node)
                elif joint.nbytes(x) * 2 > joint.nbytes(node):  # what is read side by side
                    group[find((joint.owner(x), stages[node]))] = find(node)
        numbers: dict[object, int] = {}
        return {
            node: numbers.setdefault(find(node), len(numbers))
            for node in stages
            if joint.is_fusible(node)
        }
