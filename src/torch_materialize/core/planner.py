"""A plan for the whole graph: the fewest bytes over the kernels of one dry run.

The known local rule is asked about one reused tensor at a time.  Here every pointwise value
is decided at once, single-user ones included, over what each kernel would then have to read:
a read counts once per kernel, and between equal cuts the narrower tensor costs less, so the
bf16 residual is materialized before the fp32 sum that it rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass

from .cones import components, cones
from .dag import Dag, moved
from .program import Program

__all__ = ["Limits", "Plan", "misplaced", "plan"]


@dataclass(frozen=True)
class Limits:
    """What a plan respects.

    Attributes:
        arguments: the most buffers one kernel may take (a fused kernel with very many of
            them crashed a CUDA launch and had the upstream rule reverted).
        body: the most values that one kernel may recompute.
        seconds: time for solving; what is not solved by then keeps the dry run's decision.
        peak_share: how much higher than stock's the estimated peak memory may be.
        launch_bytes: what one more kernel must save to be worth its launch.
        rounds: dry runs that may be spent on one starting point.
    """

    arguments: int = 128
    body: int = 96
    seconds: float = 10.0
    peak_share: float = 0.05
    launch_bytes: int = 4_000_000
    rounds: int = 3


@dataclass(frozen=True)
class Plan:
    """What to materialize.

    Attributes:
        store: values to materialize that need not be.
        homes: every materialized value -> the kernel that should write it.
        predicted: bytes that the plan should move, with what the model misses of the dry run.
        bound: certified by the solver: with these kernels, their order, their required
            outputs, what each can reach (:mod:`.cones`) and the limits held fixed, no choice
            of what to materialize moves fewer bytes.
        unsolved: kernels whose group had no solution in time.
    """

    store: frozenset[int]
    homes: dict[int, int]
    predicted: int
    bound: float
    unsolved: tuple[str, ...] = ()


def plan(dag: Dag, limits: Limits, banned: Set[tuple[int, int]] = frozenset()) -> Plan:
    """Solves one dry run.  ``banned`` are (value, kernel) pairs that are known not to fuse."""
    deadline = time.monotonic() + limits.seconds
    # What the model misses of each kernel (an embedding's backward, say) is no choice of
    # ours, so it is carried along as a constant.
    missed = [
        kernel.measured - one.total(dag)
        for kernel, one in zip(dag.kernels, moved(dag, dag.homes()), strict=True)
    ]
    homes = {i: k for i, k in dag.homes().items() if dag.fixed(i)}
    bound = float(sum(missed))
    unsolved = []
    for group in components(dag, cones(dag, limits.body)):
        program = Program(dag, group, limits.arguments, banned)
        solution = program.solve(deadline - time.monotonic())
        if solution is None:
            unsolved.append(group[0].kernel.name)
            homes |= {i: c.kernel.index for c in group for i in c.kernel.writes}
        else:
            bound += solution.bound
            homes |= solution.homes
    predicted = sum(one.total(dag) for one in moved(dag, homes)) + sum(missed)
    store = frozenset(i for i in homes if not dag.fixed(i))
    return Plan(store, homes, predicted, bound, tuple(unsolved))


def misplaced(
    dag: Dag, homes: Mapping[int, int], together: Callable[[int, int], bool | None]
) -> set[tuple[int, int]]:
    """(value, kernel) pairs of a plan that the dry run after it did not fuse.

    ``together(a, b)`` tells whether that dry run computed both values in one kernel, None
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
