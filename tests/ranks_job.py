"""One rank of a job, for ``torchrun``: compiles the same functions, and writes what was decided.

``torchrun ... tests/ranks_job.py FOLDER``; each rank writes ``FOLDER/<rank>.json``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

import torch_materialize as tm
from torch_materialize.core.limits import Limits
from torch_materialize.inductor.fx.decision import GIVEN_UP, names_of
from torch_materialize.inductor.hooks import graph_lowering
from torch_materialize.inductor.plan import tune


def block(x, y):
    s = x + y
    return (s * 2).sum(0), (s - 1).sum(1), s.softmax(-1).cos(), s.relu() + 3


def residual(x, y):
    s = x.exp() * y
    return s.sum(0), (s - 1).amax(1), (s @ y).relu() + s


class Seen:
    """What graphs of this rank were lowered by, and how often it measured or searched."""

    def __init__(self) -> None:
        self.decisions: list[object] = []
        self.asked = 0
        prepare, decided = graph_lowering.prepare, graph_lowering._decided

        def record(module, found, numerics):
            self.decisions.append("given up" if found is GIVEN_UP else found and names_of(found))
            return prepare(module, found, numerics)

        def count(*args):
            self.asked += 1
            return decided(*args)

        graph_lowering.prepare, graph_lowering._decided = record, count

    def compile(self, function, policy):
        """Compiles a function; what was decided and came out."""
        torch._dynamo.reset()
        self.decisions.clear()
        self.asked = 0
        torch.manual_seed(0)
        x, y = torch.randn(256, 256), torch.randn(256, 256)
        results = torch.compile(function, options=tm.options(policy))(x, y)
        return {
            "decisions": list(self.decisions),
            "asked": self.asked,
            "sums": [one.double().sum().item() for one in results],
        }


def main() -> None:
    dist.init_process_group("gloo")
    seen, found, rank = Seen(), {}, dist.get_rank()
    # Each rank finds another candidate fastest, as clocks might have it.
    tune.faster = lambda times, *_: list(times)[rank % (len(times) - 1)]
    found["tune"] = seen.compile(block, "tune")
    # Every rank but the first comes late: when that has decided.
    dist.barrier()
    decided = Path(sys.argv[1], "decided")
    while rank and not decided.exists():
        time.sleep(0.05)
    found["late"] = seen.compile(residual, "tune:numerics=eager")
    decided.touch()
    dist.barrier()
    # One rank is so slow that it reaches the emergency limit.
    usual = graph_lowering.limits_for
    if rank == dist.get_world_size() - 1:
        graph_lowering.limits_for = lambda device: Limits(emergency=0.0)
    found["slow"] = seen.compile(residual, "plan")
    graph_lowering.limits_for = usual
    dist.barrier()
    # A rank without the others does not wait for them.
    if rank == 0:
        found["alone"] = seen.compile(block, "plan")
    dist.barrier()
    Path(sys.argv[1], f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
