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
from torch_materialize.errors import RecordError
from torch_materialize.inductor.fx.decision import GIVEN_UP, names_of
from torch_materialize.inductor.hooks import graph_lowering
from torch_materialize.inductor.plan import plan_files, tune


def block(x, y):
    s = x + y
    return (s * 2).sum(0), (s - 1).sum(1), s.softmax(-1).cos(), s.relu() + 3


def residual(x, y):
    s = x.exp() * y
    return s.sum(0), (s - 1).amax(1), (s @ y).relu() + s


def acts(x, y):
    """What a plan with strong limits changes, on a few numbers."""
    first = x + y
    second = first.softmax(-1) + first + x
    return second.softmax(-1), second.mean(-1), (first * second).sum(0)


def acts_too(x, y):
    first, second, third = acts(x, y)
    return first, second.cos(), third


def missing(folder):
    """What a rank finds on whose machine nobody has put the files."""
    raise RecordError(f"{folder}: there is no such folder")


class Seen:
    """What graphs of this rank were lowered by, and how often it measured or searched."""

    def __init__(self) -> None:
        self.decisions: list[object] = []
        self.asked = self.searched = 0
        prepare, decided = graph_lowering.prepare, graph_lowering._decided
        search = graph_lowering.search

        def record(module, found, numerics):
            self.decisions.append("given up" if found is GIVEN_UP else found and names_of(found))
            return prepare(module, found, numerics)

        def count(*args):
            self.asked += 1
            return decided(*args)

        def searching(*args, **kwargs):
            self.searched += 1
            return search(*args, **kwargs)

        graph_lowering.prepare, graph_lowering._decided = record, count
        graph_lowering.search = searching

    def compile(self, function, policy, shape=(256, 256)):
        """Compiles a function; what was decided and came out."""
        torch._dynamo.reset()
        self.decisions.clear()
        self.asked = self.searched = 0
        torch.manual_seed(0)
        x, y = torch.randn(shape), torch.randn(shape)
        results = torch.compile(function, options=tm.options(policy))(x, y)
        return {
            "decisions": list(self.decisions),
            "asked": self.asked,
            "searched": self.searched,
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
    # Every rank has the plan files; and then only the first to compile has.
    plans = Path(sys.argv[1], "plans")
    found["files"] = seen.compile(acts, f"plan:limits=strong:plans={plans}", (4, 8))
    dist.barrier()
    compiled = Path(sys.argv[1], "compiled")
    policy = f"plan:limits=strong:plans={sys.argv[1]}/more"
    if rank:
        plan_files.in_folder = missing
    while rank and not compiled.exists():
        time.sleep(0.05)
    found["lacking"] = seen.compile(acts_too, policy, (4, 8))
    compiled.touch()
    dist.barrier()
    # A rank without the others does not wait for them.
    if rank == 0:
        found["alone"] = seen.compile(block, "plan")
    dist.barrier()
    Path(sys.argv[1], f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
