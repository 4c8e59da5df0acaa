"""A plan for the whole graph: the fewest bytes over the kernels of one trial lowering.

The known local rule looks at one reused tensor at a time.  Here every pointwise value
is decided at once, single-user ones included, over what each kernel would then have to read:
a read counts once per kernel, and between equal cuts the narrower tensor costs less, so the
bf16 residual is materialized before the fp32 sum that it rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

from .cones import components, cones
from .cost import together
from .dag import Dag, Moved, moved
from .deadline import FOREVER, Deadline
from .limits import Limits
from .program import Program, Solved

__all__ = ["Plan", "Together", "least", "misplaced", "plan"]

# Solves that may be spent on one lower bound.
_BOUNDS = 6


@dataclass(frozen=True)
class Plan:
    """What to materialize.

    Attributes:
        store: values to materialize that need not be.
        homes: every materialized value -> the kernel that should write it.
        predicted: bytes that the plan should move, with what the model misses of the lowering.
        saves: what it should save of the trial lowering's cost, bytes and operations, in
            bytes of a usual kernel (:meth:`.Limits.weights`).
        bound: certified by the solver: with these kernels, their order, their required
            outputs, what each can reach (:mod:`.cones`) and the limits held fixed, no choice
            of what to materialize moves fewer bytes.  Of limits without rates; with them it is
            no number of bytes.
        unsolved: the first kernel of each group that had no solution within the limits; the whole
            group is held fixed then, in the plan and in the bound.
    """

    store: frozenset[int]
    homes: dict[int, int]
    predicted: int
    saves: float
    bound: float
    unsolved: tuple[str, ...] = ()


def plan(
    dag: Dag,
    limits: Limits,
    banned: Set[tuple[int, int]] = frozenset(),
    solved: Solved | None = None,
    deadline: Deadline = FOREVER,
) -> Plan:
    """Finds the plan for one trial lowering.

    ``banned`` are (value, kernel) pairs that are known not to fuse.  ``solved`` remembers programs
    from one call to the next.

    Raises:
        OutOfTime: the ``deadline`` passed meanwhile.
    """
    work = limits.solve_work
    solved = {} if solved is None else solved
    # What the model misses of each kernel (an embedding's backward, say) is no choice of
    # ours, so it is carried along as a constant.
    now = moved(dag, dag.homes())
    totals = [one.total(dag) for one in now]
    missed = [kernel.measured - total for kernel, total in zip(dag.kernels, totals, strict=True)]
    homes = {i: k for i, k in dag.homes().items() if dag.fixed(i)}
    bound = float(sum(missed))
    unsolved = []
    for group in components(dag, cones(dag, now, limits.body, limits.further)):
        solution = Program(dag, group, limits, banned).solve(work, deadline, solved)
        if solution is None:
            unsolved.append(group[0].kernel.name)
            homes |= {i: c.kernel.index for c in group for i in c.kernel.writes}
            bound += sum(totals[c.kernel.index] for c in group)
        else:
            bound += solution.bound
            homes |= solution.homes
            work -= solution.work
    then = moved(dag, homes)
    predicted = sum(one.total(dag) for one in then) + sum(missed)
    unseen = [
        (bytes_missed, max(kernel.work - _work(dag, one), 0))
        for kernel, bytes_missed, one in zip(dag.kernels, missed, now, strict=True)
    ]
    saves = _weighed(dag, limits, now, unseen) - _weighed(dag, limits, then, unseen)
    store = frozenset(i for i in homes if not dag.fixed(i))
    return Plan(store, homes, predicted, saves, bound, tuple(unsolved))


def _weighed(
    dag: Dag, limits: Limits, each: Sequence[Moved], unseen: Sequence[tuple[int, float]]
) -> float:
    """What kernels cost that move and compute ``each``, in bytes of a usual kernel.

    ``unseen`` are bytes and operations of each kernel that none of its values accounts for.
    """
    total = 0.0
    for kernel, one, (more, busy) in zip(dag.kernels, each, unseen, strict=True):
        weights, written = limits.weights(kernel), sum(one.writes.values())
        read = one.total(dag) - written + more
        moving = weights.read * read + weights.write * written
        computing = weights.operation * (_work(dag, one) + busy)
        total += together(moving, computing, limits.hidden)
    return total


def _work(dag: Dag, one: Moved) -> float:
    """Operations of the values that a kernel computes."""
    return sum(dag.values[i].work for i in one.computes)


def misplaced(
    dag: Dag, homes: Mapping[int, int], together: Callable[[int, int], bool | None]
) -> set[tuple[int, int]]:
    """(value, kernel) pairs of a plan that the trial lowering after it did not fuse.

    ``together(a, b)`` is whether that lowering computed both values in one kernel, None
    when one of them is not there.
    """
    wrong = set()
    for i, k in homes.items():
        if dag.fixed(i):
            continue
        anchors = [x for x in dag.kernels[k].writes if x != i and dag.fixed(x)]
        seen = [together(i, x) for x in anchors]
        if seen and all(s is False for s in seen):
            wrong.add((i, k))
    return wrong


class Together:
    """Whether a trial lowering computed in one kernel what an earlier one knew by other indices."""

    def __init__(self, old: Dag, new: Dag) -> None:
        self._labels = [value.label for value in old.values]
        homes = new.homes()
        self._kernel = {new.values[i].label: k for i, k in homes.items() if new.values[i].label}

    def __call__(self, a: int, b: int) -> bool | None:
        """None where one of the two is not there."""
        one, other = (self._kernel.get(self._labels[i]) for i in (a, b))
        return None if one is None or other is None else one == other


def least(dag: Dag, limits: Limits) -> Plan:
    """The plan of the fewest bytes, knowing which fusions this very lowering refused.

    No plan for these kernels moves fewer bytes than its :attr:`~Plan.bound`.
    A plan that materializes what this lowering did, but in other kernels, needs fusions
    that Inductor was just seen not to make.
    """
    banned: set[tuple[int, int]] = set()
    together = Together(dag, dag)
    for _ in range(_BOUNDS):
        planned = plan(dag, limits.certifying, banned)
        refused = misplaced(dag, planned.homes, together) - banned
        if not refused:
            break
        banned |= refused
    return planned
