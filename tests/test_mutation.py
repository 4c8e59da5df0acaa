"""What is written into a buffer that is there: caches, slices, sums by index."""

from __future__ import annotations

import pytest
import torch

from test_gathers import captured, indices
from torch_materialize.core.dag import Kind, moved
from torch_materialize.core.devices import DEVICES
from torch_materialize.core.policy import STOCK, Policy
from torch_materialize.inductor.offline import capture as capturing
from torch_materialize.inductor.offline.dry_run import dry_run

pytestmark = pytest.mark.e2e

CACHE, ROWS = (4096, 64), 16
WRITTEN = ROWS * 64 * 4


def by_index(cache, x, ids):
    cache.index_copy_(0, ids, x * 2)


def by_slice(cache, x, ids):
    cache[3 : 3 + ROWS] = x * 2


def whole(cache, x, ids):
    cache.copy_(x[0] * 2)


def added(cache, x, ids):
    cache.index_add_(0, ids, x * 2)


@pytest.mark.parametrize(
    ("write", "loads"), [(by_index, 0), (by_slice, 0), (whole, 0), (added, WRITTEN)]
)
def test_what_is_overwritten_is_not_read(write, loads):
    """A dependency that keeps writes in order counted as a read of the whole cache."""

    def step(cache, x, ids):
        write(cache, x, ids)
        return x + 1

    graph = captured(step, CACHE, (ROWS, 64), indices(ROWS))
    kernels = list(dry_run(graph, STOCK, DEVICES["h200"]).graph.fused())
    cache = graph.module.graph.find_nodes(op="placeholder")
    names = {n.name for n in cache if n.meta["val"].shape == CACHE}
    assert sum(k.reads.get(name, 0) for k in kernels for name in names) == loads


def test_a_cache_that_is_read_later_is_read_then():
    def step(cache, x, ids):
        by_index(cache, x, ids)
        return cache.sum(1)

    graph = captured(step, CACHE, (ROWS, 64), indices(ROWS))
    write, read = dry_run(graph, STOCK, DEVICES["h200"]).graph.fused()
    assert sum(write.reads.values()) == WRITTEN + ROWS * 8
    assert sum(read.reads.values()) == CACHE[0] * CACHE[1] * 4


def test_a_buffer_that_nobody_reads_is_no_source():
    """Inductor stores a slice's new values after all users have inlined them, and drops that."""

    def twice(cache, x):
        cache[:ROWS].copy_(x * 2)
        cache[5:9].mul_(0.5)
        return x + 1

    graph = captured(twice, CACHE, (ROWS, 64))
    dag = dry_run(graph, STOCK, DEVICES["h200"]).dag
    inputs = {node.name for node in graph.module.graph.find_nodes(op="placeholder")}
    assert {v.node for v in dag.values if v.kind is Kind.SOURCE} == inputs
    for kernel, one in zip(dag.kernels, moved(dag, dag.homes()), strict=True):
        assert one.total(dag) == kernel.measured


@torch.library.custom_op("torch_materialize_written::normed", mutates_args=("residual",))
def fused_norm(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


fused_norm.register_fake(lambda x, weight, residual: torch.empty_like(x))


def _normed(x, weight, residual):
    """As vLLM's fused norm: writes into one argument and returns another tensor."""
    normed = fused_norm(x * 2, weight, residual)
    y = torch.nn.functional.silu(normed) * residual
    again = fused_norm(y, weight, residual)
    return again + normed


def _largest(x, ids, source):
    """On a CPU an extern kernel fills in the largest, before another kernel writes into x."""
    largest = torch.scatter_reduce(source * 2, 1, ids, source, "amax")
    x[:, ids[0]] = 3
    return largest, x * 2


@pytest.mark.parametrize("function", [_normed, _largest])
def test_what_others_wrote_to_memory_is_not_rounded_again(function):
    """It was, in a kernel of its own that the dry run knew nothing of: more bytes than stock."""
    mode = capturing.fake_mode()
    with mode:
        a, b, c = (torch.empty(64, 32, dtype=torch.bfloat16) for _ in range(3))
        if function is _largest:
            b = torch.zeros(64, 32, dtype=torch.long)
    (graph,) = capturing.capture(function, [a, b, c], {}, DEVICES["cpu"], mode)
    found = dry_run(graph, Policy("plan"), DEVICES["cpu"]).found
    assert not {name for name in found.rounded if name.startswith(("normed", "scatter"))}


def test_what_a_scatter_fills_in_is_in_memory_whoever_reads_it():
    """An operator that read it, and wrote into another argument, hid that."""

    def read_by_another(x, ids, source):
        largest = torch.scatter_reduce(x * 2, 1, ids, source, "amax")
        return fused_norm(largest, source, source) + largest

    mode = capturing.fake_mode()
    with mode:
        x, source = torch.empty(64, 32), torch.empty(64, 32)
        ids = torch.zeros(64, 32, dtype=torch.long)
    (graph,) = capturing.capture(read_by_another, [x, ids, source], {}, DEVICES["cpu"], mode)
    dag = dry_run(graph, STOCK, DEVICES["cpu"]).dag
    (largest,) = (value for value in dag.values if value.node == "scatter_reduce")
    assert largest.kind is Kind.SOURCE
