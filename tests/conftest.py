from __future__ import annotations

import functools
import logging
import os
import resource
import sys

import pytest

from fresh import Fresh

# Our own surprises must fail a test instead of falling back to stock.
os.environ.setdefault("TORCH_MATERIALIZE_STRICT", "1")
# Each test really lowers its graphs, whatever an earlier test or run left in a cache; the tests
# of the caches turn them on again, in processes and folders of their own.
os.environ["TORCHINDUCTOR_FX_GRAPH_CACHE"] = os.environ["TORCHINDUCTOR_AUTOGRAD_CACHE"] = "0"
# What the processor says it can do is believed: else each process starts another few, which import
# torch to try vector instructions out, and each new cache folder builds what they load.
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")

# Where Python may not keep what it compiled, each process compiles torch anew: 9 s of CPU time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

#: What a test of the quick tier may take, user and system, itself and its child processes.
CPU_SECONDS = 15.0
_started = pytest.StashKey[float]()


def _cpu_seconds() -> float:
    """Not a clock: the same however busy the machine is.  Children count once they have ended."""
    own, children = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    used = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    return used + Fresh.cpu_seconds


def _is_quick(item: pytest.Item) -> bool:
    """Whether the quick tier runs: others, as for another torch, have no such limit."""
    if "not full" not in item.config.option.markexpr:
        return False
    return not any(item.get_closest_marker(name) for name in ("full", "gpu", "vllm"))


@functools.cache
def _precompile_headers() -> None:
    """The first compile on a machine precompiles C++ headers for all: of no test's time."""
    import torch
    from torch._inductor import codecache

    if not os.path.isdir(getattr(codecache, "_HEADER_DIR", "")):
        torch.compile(lambda x: x + 1)(torch.ones(8))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item):
    if item.get_closest_marker("e2e") or "dynamo" in getattr(item, "fixturenames", ()):
        _precompile_headers()
    item.stash[_started] = _cpu_seconds()
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item):
    """A test that is too slow for the quick tier fails; its fixtures count, too."""
    result = yield
    taken = _cpu_seconds() - item.stash[_started]
    if taken > CPU_SECONDS and _is_quick(item):
        pytest.fail(
            f"took {taken:.1f} s of CPU time, expected at most {CPU_SECONDS:g} s: "
            "make it smaller, or mark it `full`",
            pytrace=False,
        )
    return result


@pytest.fixture
def dynamo():
    """Dynamo without compiled code from other tests, and our hooks gone afterwards."""
    import torch

    import torch_materialize as tm

    torch._dynamo.reset()
    yield torch._dynamo
    tm.disable()
    torch._dynamo.reset()


@pytest.fixture(autouse=True)
def _nothing_logged_before(monkeypatch):
    """What is logged once per process is logged once per test, whatever ran before it."""
    from torch_materialize import events

    monkeypatch.setattr(events, "_seen", set())


@pytest.fixture
def scheduled(monkeypatch):
    """How many operations each lowering had that was scheduled, trial lowerings among them."""
    from torch._inductor.scheduler import Scheduler

    found, upstream = [], Scheduler.__init__

    def init(self, nodes):
        found.append(len(nodes))
        upstream(self, nodes)

    monkeypatch.setattr(Scheduler, "__init__", init)
    return found


@pytest.fixture
def lenient(monkeypatch, caplog):
    """As users run it: surprises are logged and not raised."""
    monkeypatch.delenv("TORCH_MATERIALIZE_STRICT")
    caplog.set_level(logging.WARNING, logger="torch_materialize")
    return caplog


@pytest.fixture
def unlowered_pins(monkeypatch):
    """Inductor does not know how to lower pins yet; afterwards it knows what it knew before.

    An operator without a lowering becomes a fallback, which has entries in four tables.
    """
    import torch

    from torch_materialize.inductor.lower import pins

    monkeypatch.setattr(pins, "_tried", [])
    lowering = pins.lowering
    operators = [getattr(torch.ops.torch_materialize, name).default for name in ("keep", "inline")]
    known = {one: lowering.lowerings.pop(one) for one in operators if one in lowering.lowerings}
    yield
    for one in operators:
        lowering.lowerings.pop(one, None)
        lowering.fallbacks.discard(one)
        lowering.needs_realized_inputs.discard(one)
        lowering._maybe_layout_constraints.pop(one, None)
    lowering.lowerings.update(known)
