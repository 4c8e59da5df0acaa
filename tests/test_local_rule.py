"""The pure rule, step by step and against an independent statement of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torch_materialize.core.local import Reason, Reuse, decide

# A bf16 residual add of two tensors, read by three norms: 2 reads, output of one unit each.
RESIDUAL = Reuse(
    users=3,
    upstream=False,
    large_body=False,
    read_bytes=2000,
    output_bytes=1000,
    reads=2,
    reads_threshold=4,
)


def test_residual_add_is_materialized_where_reads_outweigh_the_write():
    # 2000 * 2 >= 1000 * 4: exactly at the boundary, which upstream counts as "materialize".
    verdict = decide(RESIDUAL)
    assert verdict.materialize
    assert verdict.reason is Reason.TRAFFIC
    assert (verdict.inline_bytes, verdict.store_bytes) == (6000, 6000)
    assert not decide(replace(RESIDUAL, read_bytes=1999)).materialize


def test_one_user_is_never_asked_about():
    assert decide(replace(RESIDUAL, users=1, upstream=True, large_body=True)).materialize is False


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"upstream": True, "large_body": True}, Reason.UPSTREAM),
        ({"large_body": True}, Reason.LARGE_BODY),
        ({"read_bytes": 0, "reads": 5}, Reason.READ_COUNT),
        ({"output_bytes": 0, "reads": 5}, Reason.READ_COUNT),
    ],
)
def test_each_step_materializes_in_upstreams_order(change, reason):
    # Bytes alone would inline this one, so only the step itself can materialize it.
    verdict = decide(replace(RESIDUAL, **{"read_bytes": 1, **change}))
    assert verdict.materialize
    assert verdict.reason is reason


def test_unknown_size_falls_back_to_the_read_count_threshold():
    unknown = replace(RESIDUAL, read_bytes=0)
    assert not decide(replace(unknown, reads=4)).materialize
    assert decide(replace(unknown, reads=5)).materialize


def test_broadcast_reuse_keeps_only_upstreams_reasons():
    broadcast = replace(RESIDUAL, graph_reuse=False, reads=9)
    assert decide(broadcast).reason is Reason.BROADCAST
    assert not decide(broadcast).materialize
    assert decide(replace(broadcast, large_body=True)).materialize


@given(
    users=st.integers(2, 50),
    read=st.integers(1, 1 << 40),
    output=st.integers(1, 1 << 40),
)
def test_bytes_step_is_upstreams_inequality(users, read, output):
    reuse = replace(RESIDUAL, users=users, read_bytes=read, output_bytes=output)
    assert decide(reuse).materialize == (read * (users - 1) >= output * (1 + users))
