"""Our passes over the joint graph: they run what others had set, and may fail.

What they do to casts they do on torch 2.11 and 2.12 alone.
"""

from __future__ import annotations

import pytest
import torch
from torch._inductor import config, custom_graph_pass, metrics
from torch._inductor.custom_graph_pass import CustomGraphPass

import torch_materialize as tm
from test_faults import Planted, raises, warned
from test_plan import code
from tiers import but
from torch_materialize.inductor.fx import casts
from torch_materialize.inductor.hooks import cast_passes, policy_pass

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("dynamo")]


def residuals(x, a, b):
    """vLLM's add and norm twice: the narrow sums have one user each, the wide ones several."""
    for y in (a, b):
        total = x.float() + y.float()
        x = total.bfloat16()
        mean = (total * total).mean(-1, keepdim=True)
        a = (total * torch.rsqrt(mean + 1e-3)).bfloat16()
        x = x.float().add(a.flip(0).float()).bfloat16()
    return x, a


def arguments():
    torch.manual_seed(0)
    return [torch.randn(512, 256).bfloat16() for _ in range(3)]


STAGES = {
    "note and hide": (cast_passes.HideCasts, "_note_and_hide"),
    "post-grad pass": (policy_pass, "hold_for_lowering"),
    "cache key": (policy_pass, "implementation"),
}
HOLDING = {
    "which narrow": (casts, "_narrows"),
    "which widen": (casts, "_widens"),
    "joint or not": (cast_passes, "_is_joint"),
    "hide": (cast_passes, "hide"),
    "will they be shown": (cast_passes, "out_of_process"),
    "show": (cast_passes.ShowCasts, "_show"),
}
if casts.folds_narrow_casts():
    STAGES |= HOLDING


holds = pytest.mark.skipif(
    not casts.folds_narrow_casts(), reason="upstream folds no narrowing cast"
)


def compiled_as_stock(lenient, planted: str) -> bool:
    """Whether a compile under `plan` gives stock's code and one line about what was planted."""
    got = code(residuals, "plan", *arguments())
    assert [f"Planted: {planted}" in line for line in warned(lenient)] == [True]
    return got == code(residuals, "stock", *arguments())


@torch.no_grad()
@pytest.mark.full
def test_the_plan_is_another_code_than_stocks():
    assert code(residuals, "plan", *arguments()) != code(residuals, "stock", *arguments())


@torch.no_grad()
@pytest.mark.parametrize("stage", but(["note and hide"], STAGES))
def test_what_fails_leaves_stocks_code(stage, lenient, monkeypatch):
    where, name = STAGES[stage]
    monkeypatch.setattr(where, name, raises(Planted(stage)))
    assert compiled_as_stock(lenient, stage)


@torch.no_grad()
@holds
def test_half_of_the_casts_are_hidden(lenient, monkeypatch):
    right, calls = casts._narrows, []

    def once_right(node):
        calls.append(node)
        if len(calls) > 1:
            raise Planted("half")
        return right(node)

    monkeypatch.setattr(casts, "_narrows", once_right)
    assert compiled_as_stock(lenient, "half")
    assert len(calls) == 2


@torch.no_grad()
@holds
@pytest.mark.parametrize("stage", ["hide", "show"])
def test_no_operator_of_ours_stays_where_casts_are_hidden_for_good(stage, lenient, monkeypatch):
    where, name = STAGES[stage]
    monkeypatch.setattr(where, name, raises(Planted(stage)))
    assert "torch_materialize" not in code(residuals, "plan:numerics=eager", *arguments())
    assert len(warned(lenient)) == 1


@torch.no_grad()
@pytest.mark.parametrize(
    "stage", but(["note and hide"], [name for name in STAGES if name != "cache key"])
)
def test_strict_mode_raises(stage, monkeypatch):
    where, name = STAGES[stage]
    monkeypatch.setattr(where, name, raises(Planted(stage)))
    with pytest.raises(Exception, match=f"Planted: {stage}"):
        code(residuals, "plan", *arguments())


class Notes(CustomGraphPass):
    def __init__(self, seen, name):
        self.seen, self.name = seen, name

    def __call__(self, graph):
        self.seen.append(self.name)

    def uuid(self):
        return self.name

    def __deepcopy__(self, _memo):
        return self


@torch.no_grad()
def test_passes_of_others_run(dynamo):
    several = hasattr(custom_graph_pass, "get_custom_graph_passes")
    seen = []
    passes = [Notes(seen, "one"), Notes(seen, "two")] if several else Notes(seen, "one")
    with config.patch(joint_custom_pre_pass=passes), tm.policy("plan"):
        torch.compile(residuals)(*arguments())
    assert seen == (["one", "two"] if several else ["one"])


class WithLoss(torch.nn.Module):
    """A loss whose logits are far larger than what they are computed from."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(8, 512, bias=False)

    def forward(self, x, y):
        return torch.nn.functional.cross_entropy(self.head(x.tanh()), y)


@pytest.mark.full
@pytest.mark.parametrize("policy", ["plan", "plan:memory=0.9"])
def test_a_loss_that_upstream_cuts_into_chunks_stays_cut(policy, dynamo):
    """``auto_chunker`` changes the joint graph before it is partitioned."""
    torch.manual_seed(0)
    model, x, y = WithLoss(), torch.randn(128, 8), torch.randint(512, (128,))

    def trained(**how):
        torch._dynamo.reset()
        metrics.reset()
        model.zero_grad()
        loss = torch.compile(model, **how)(x, y)
        loss.backward()
        return metrics.num_auto_chunking, loss.detach(), model.head.weight.grad.clone()

    whole, *want = trained()
    chunks = {"enable": True, "output_size_threshold": 1024, "amplify_ratio_threshold": 2}
    with config.patch({f"auto_chunker.{key}": value for key, value in chunks.items()}):
        cut, *got = trained(options=tm.options(policy))
    assert (whole, cut) == (0, 1)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other)
