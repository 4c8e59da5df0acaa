"""Prints what plans decide for a few graphs, to be compared from one process to the next.

``python tests/deciding.py`` prints one JSON object: graph -> its decision, and a digest of all
that the planner saw, in its order; names of graphs choose those.  ``by-buffers`` has internal
buffers read what their names tell, which is what the reader falls back on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from typing import Any

import torch
import torch.nn.functional as F

from torch_materialize.core.devices import CPU, DEVICES
from torch_materialize.core.limits import limits_for
from torch_materialize.inductor.fx.decision import names_of
from torch_materialize.inductor.lower.virtual_gpu import planned_device
from torch_materialize.inductor.offline import capture as capturing
from torch_materialize.inductor.plan.search import search
from torch_materialize.inductor.read import values


def norms(x, w, b):
    """Internal buffers: partial sums of long rows, a mean and its variance."""
    y = F.layer_norm(x.half().float() + x.roll(1, 0), (x.shape[-1],), w, b)
    return y, y.var(0), (y.sum() + x.sum()).tanh(), torch.cumsum(y.relu(), 0)


def gathers(table, i, j):
    """Loads through indices, shared and not, and additions through them."""
    rows = table[i] + table[j]
    swapped = torch.cat([rows[:, 32:], -rows[:, :32]], 1) * table[i]
    added = torch.zeros_like(table).index_add(0, i, swapped)
    return swapped.sum(1), added * 2, table.sort(0).values + 1


def pieces(a, b, c, w):
    """Concatenations, several outputs, extern kernels that read what fused ones wrote."""
    left, middle, right = torch.cat([a.sin(), b * c, c.exp() + a], 1).chunk(3, 1)
    hidden = (left + middle) @ w
    pooled, places = F.max_pool2d(hidden[None, None], 3, 2, return_indices=True)
    again = (hidden * right).softmax(-1) @ w
    return again + left, pooled, places, torch.topk(again * hidden, 4).values, (again + b).mean(1)


def residuals(x, w, v):
    """Narrow values that are rounded and used wide, over two matmuls."""
    x = x.bfloat16()
    for weight in (w, v):
        wide = x.float()
        normed = (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).bfloat16()
        x = x + F.silu(normed @ weight.bfloat16()) * normed
    return x, x.float().logsumexp(-1)


_SQUARE = (512, 512)
GRAPHS = {
    "norms": (norms, CPU, [(64, 40_000), (40_000,), (40_000,)]),
    "gathers": (gathers, CPU, [(4096, 64), "indices", "indices"]),
    "pieces": (pieces, DEVICES["h200"], [_SQUARE, _SQUARE, _SQUARE, _SQUARE]),
    "residuals": (residuals, DEVICES["h200"], [_SQUARE, _SQUARE, _SQUARE]),
}


def decided(name: str) -> dict[str, dict[str, object]]:
    """What is decided about the graphs of one function."""
    function, device, made = GRAPHS[name]
    training, mode = name == "residuals", capturing.fake_mode()
    with mode:
        inputs = [
            torch.zeros(1024, dtype=torch.long)
            if one == "indices"
            else torch.empty(one, requires_grad=training)
            for one in made
        ]
    seen: dict[str, dict[str, object]] = {}
    for graph in capturing.capture(function, inputs, {}, device, mode, training=training):
        with planned_device(device):
            found = search(graph, limits_for(device), certify=False)
        saw = repr(_shown((found.graph, found.dag, found.stock, found.stock_dag)))
        seen[f"{name} {len(seen)}"] = {
            "decision": names_of(found),
            "rounds": found.rounds,
            "saw": hashlib.sha256(saw.encode()).hexdigest(),
        }
    return seen


def _shown(value: Any) -> Any:
    """A value as text would show it; sets, which have no order, in one of their own."""
    if dataclasses.is_dataclass(value):
        return [_shown(getattr(value, one.name)) for one in dataclasses.fields(value)]
    if isinstance(value, (set, frozenset)):
        return sorted(repr(_shown(one)) for one in value)
    if isinstance(value, dict):
        return [[_shown(key), _shown(one)] for key, one in value.items()]
    return [_shown(one) for one in value] if isinstance(value, (tuple, list)) else repr(value)


if __name__ == "__main__":
    if "by-buffers" in sys.argv:
        values.Values.is_read = lambda *_: False
    names = [name for name in GRAPHS if name in sys.argv] or GRAPHS
    sys.stdout.write(json.dumps({k: v for name in names for k, v in decided(name).items()}))
