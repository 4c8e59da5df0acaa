"""Training steps with ``torch.amp.GradScaler``: explained, and the same under a plan as without."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import torch_materialize as tm
from torch_materialize.inductor.offline import capture as capturing

pytestmark = pytest.mark.e2e

PLAN = "plan:limits=strong:numerics=stock"


class Gated(nn.Module):
    """A norm and a gate in fp32 behind a matmul in half precision: stock writes too much."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        self.scale, self.shift = nn.Parameter(torch.ones(64)), nn.Parameter(torch.zeros(64))

    def forward(self, x):
        gate = self.first(x).float()
        normed = (x - gate.mean(0)) * self.scale + self.shift + gate
        return self.second(normed.relu() * 2), normed.flip(0) + 1


class Trainer:
    """A step as the documentation of torch.amp writes it; a list and two optimizers in it."""

    def __init__(self, dtype, init_scale=2.0**16, clip=False):
        self.model, self.dtype, self.clip = Gated(), dtype, clip
        weights = list(self.model.parameters())
        self.opts = [torch.optim.AdamW(weights[:4]), torch.optim.SGD(weights[4:], 0.1)]
        self.scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
        self.skipped = 0

    def outputs(self, x):
        with torch.autocast("cpu", dtype=self.dtype):
            return self.model(x)

    def step(self, x):
        for opt in self.opts:
            opt.zero_grad()
        one, other = self.outputs(x)
        loss = one.float().square().mean() + other.mean()
        self.scaler.scale(loss).backward()
        for opt in self.opts:
            if self.clip:
                self.scaler.unscale_(opt)
                nn.utils.clip_grad_norm_(opt.param_groups[0]["params"], 1.0)
            self.scaler.step(opt)
        before = self.scaler.get_scale()
        self.scaler.update()
        if self.scaler.get_scale() < before:
            self.skipped += 1
        return loss.detach()

    def held(self):
        """Every tensor that a step changes."""
        states = [x for opt in self.opts for state in opt.state.values() for x in state.values()]
        weights = list(self.model.parameters())
        scale = [self.scaler._scale, self.scaler._growth_tracker]
        tensors = [*weights, *(w.grad for w in weights), *states, *scale]
        return [x for x in tensors if isinstance(x, torch.Tensor)]


@pytest.mark.parametrize(
    ("dtype", "clip", "fresh"),
    [
        (torch.float16, False, True),
        (torch.bfloat16, True, False),
    ],
    ids=["a first step", "a later step that clips"],
)
@pytest.mark.full
def test_a_step_with_a_scaler_is_explained_and_left_as_it_is(dynamo, dtype, clip, fresh):
    trainer = Trainer(dtype, clip=clip)
    x = torch.randn(16, 64)
    if not fresh:
        trainer.step(x)
    objects, skipped = trainer.held(), trainer.skipped
    before = [one.detach().clone() for one in objects]
    graphs = tm.explain(trainer.step, x, device="cpu", policies=["stock"]).explanation.graphs
    kinds = [g.kind for g in graphs]
    # Both optimizers run: no gradient is infinite in the step that is traced.
    assert kinds == ["forward", "backward", "inference", "inference"]
    after = trainer.held()
    assert len(after) == len(objects) == (6 if fresh else 26)
    assert all(one is other for one, other in zip(objects, after, strict=True))
    assert all(map(torch.equal, before, after))
    assert trainer.skipped == skipped


def test_a_scaler_in_the_middle_of_its_iteration_is_named():
    trainer = Trainer(torch.bfloat16)
    trainer.scaler.scale(trainer.model(torch.randn(4, 64))[0].sum()).backward()
    trainer.scaler.unscale_(trainer.opts[0])
    with pytest.raises(tm.CaptureError, match=r"a GradScaler that could not be copied: .*update"):
        tm.explain(trainer.step, torch.randn(4, 64), device="cpu")


@pytest.mark.full
def test_a_plan_leaves_losses_gradients_and_scales_to_the_last_bit(dynamo):
    def run(policy):
        torch.manual_seed(0)
        # The first scale overflows half precision, so that steps are skipped and the scale falls.
        trainer = Trainer(torch.float16, init_scale=2.0**30)
        trainer.model = torch.compile(trainer.model, options=tm.options(policy))
        losses = [trainer.step(x) for _ in range(12)]
        return trainer.skipped, [*losses, *trainer.held()]

    x = torch.randn(4096, 64)
    explained = tm.explain(
        Trainer(torch.float16).outputs, x, training=True, device="cpu", policies=["stock", PLAN]
    )
    assert sum(graph.saved(PLAN) for graph in explained.explanation.graphs) > 0
    (skipped, ours), (stock_skipped, stocks) = run(PLAN), run("stock")
    assert 0 < skipped == stock_skipped < 12
    assert all(map(torch.equal, ours, stocks))


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x.fill_(2),
        lambda x: x.detach().add_(1),
        lambda x: torch._foreach_mul_([x], 2),
        lambda x: torch.add(x, x, out=x),
    ],
    ids=["itself", "a view", "a list", "out"],
)
def test_a_scalar_has_its_value_until_it_is_written_to(write):
    with capturing.fake_mode():
        flag, number = torch.full((), 0.1), torch.full((), 2.7, dtype=torch.int32)
        copied = flag.to(torch.float64, copy=True)
        assert number.item() == 2
        assert flag.item() == copied.item() == torch.tensor(0.1).item()
        write(flag)
        assert not isinstance(flag.item(), float)
        assert copied.item() == torch.tensor(0.1).item()
