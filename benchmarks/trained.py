"""A real training run: a small GPT with dropout, under stock and under ours, loss by loss.

Of each way one number a step (the loss), what its forward keeps for its backward, and the most
bytes alive at once in one step: by the allocator's own events, and as estimated before anything
ran.  A second run of stock with other masks shows how far losses lie apart for no reason.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._inductor import config
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

import torch_materialize as tm
from torch_materialize.core.policy import size_from
from torch_materialize.results.base import write_json

_VOCABULARY, _WIDTH, _LAYERS, _HEADS, _TOKENS, _BATCH = 512, 128, 4, 4, 128, 8
_DROPOUT = 0.1
_RATE = 1e-3
#: Share of stock's estimated peak that the way with a limit of what is alive gets.
_ALIVE = 0.85
#: The step that is looked at closely; the first ones compile.
_LOOKED_AT = 3


class Layer(nn.Module):
    """Attention and an MLP, each behind a norm, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(_WIDTH) for _ in range(2))
        self.all, self.out = nn.Linear(_WIDTH, 3 * _WIDTH), nn.Linear(_WIDTH, _WIDTH)
        self.up, self.down = nn.Linear(_WIDTH, 4 * _WIDTH), nn.Linear(4 * _WIDTH, _WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, width) to the same."""
        parts = self.all(self.norms[0](x)).chunk(3, -1)
        heads = [part.unflatten(-1, (_HEADS, -1)).transpose(1, 2) for part in parts]
        y = functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + functional.dropout(self.out(y.transpose(1, 2).flatten(2)), _DROPOUT, self.training)
        y = self.down(functional.gelu(self.up(self.norms[1](x))))
        return x + functional.dropout(y, _DROPOUT, self.training)


class Gpt(nn.Module):
    """A GPT with its loss: tokens (batch, tokens + 1) to the mean cross entropy."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(_VOCABULARY, _WIDTH), nn.Embedding(_TOKENS, _WIDTH)
        self.layers = nn.Sequential(*(Layer() for _ in range(_LAYERS)))
        self.norm, self.head = nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, _VOCABULARY, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """The loss of predicting each next token, computed in bf16 where autocast wants that."""
        with torch.autocast(tokens.device.type, torch.bfloat16):
            x = self.tokens(tokens[:, :-1]) + self.places.weight
            x = functional.dropout(x, _DROPOUT, self.training)
            logits = self.head(self.norm(self.layers(x)))
        return functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        losses: one a step.
        kept: bytes that the forward keeps for the backward, weights and inputs left out.
        alive: most bytes alive at once in one forward and backward, the weights included.
        seconds: median of one step, the compiling ones left out.
    """

    losses: list[float]
    kept: int
    alive: int
    seconds: float


def main(chosen: Any) -> int:
    """Writes the file, anew after each way."""
    if chosen.json is None:
        raise SystemExit("trained needs --json FILE")
    estimated = _estimated(["stock", "plan", "plan:memory=0.7"])
    limit = f"plan:memory={size_from(int(estimated['stock'] * _ALIVE))}"
    estimated |= _estimated([limit])
    data: dict[str, Any] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "steps": chosen.steps,
        "trained": {},
    }
    for name in ("stock", "plan", "plan:memory=0.7", limit, "stock, other masks", "eager"):
        policy, _, masks = name.partition(", ")
        run = trained(_compiled(policy), chosen.steps, masks=1 if masks else 0)
        data["trained"][name] = {**vars(run), "estimated": estimated.get(name, 0)}
        write_json(chosen.json, data)
    return 0


def _compiled(policy: str) -> Callable[[Gpt], Any]:
    def compiled(model: Gpt) -> Any:
        torch._dynamo.reset()
        if policy == "eager":
            return model
        return torch.compile(model, options=tm.options(policy))

    return compiled


def _estimated(policies: Sequence[str]) -> dict[str, int]:
    """The peak of each policy's graphs, for the machine at hand."""
    found = {}
    for policy in policies:
        ways = dict.fromkeys(["stock", policy])
        made = tm.explain(Gpt(), _data(0), policies=tuple(ways), training=True, device="cpu")
        found[policy] = made.explanation.peak_bytes(policy)
    return found


def _data(step: int) -> torch.Tensor:
    """Sequences of a made-up language in which each token has eight that may follow."""
    generator = torch.Generator().manual_seed(step)
    draws = torch.randint(8, (_BATCH, _TOKENS), generator=generator)
    tokens = torch.randint(_VOCABULARY, (_BATCH, 1), generator=generator)
    for draw in draws.T:
        following = (tokens[:, -1] * 37 + draw * 11 + 5) % _VOCABULARY
        tokens = torch.cat([tokens, following[:, None]], 1)
    return tokens


def trained(compiled: Callable[[Gpt], Any], steps: int, *, masks: int = 0) -> Run:
    """Trains from the same weights on the same data; ``masks`` seeds dropout."""
    torch.manual_seed(0)
    model = Gpt()
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE)
    losses, seconds, kept, alive = [], [], 0, 0
    with config.patch(force_disable_caches=True):
        step_of = compiled(model)
        torch.manual_seed(1 + masks)
        for step in range(steps):
            tokens = _data(step)
            optimizer.zero_grad(set_to_none=True)
            began = time.perf_counter()
            if step == _LOOKED_AT:
                loss, kept, alive = _looked_at(model, step_of, tokens)
            else:
                loss = step_of(tokens)
                loss.backward()
            seconds.append(time.perf_counter() - began)
            optimizer.step()
            losses.append(loss.item())
    return Run(losses, kept, alive, statistics.median(seconds[_LOOKED_AT + 1 :]))


def _looked_at(model: Gpt, step_of: Any, tokens: torch.Tensor) -> tuple[torch.Tensor, int, int]:
    """One forward and backward: the loss, bytes kept between the two, bytes alive at most."""
    given = {x.untyped_storage()._cdata for x in (*model.parameters(), tokens)}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in given:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = step_of(tokens)
        loss.backward()
    now = most = 0
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    before = sum(x.nbytes for x in (*model.parameters(), tokens))
    return loss.detach(), sum(kept.values()), before + most
