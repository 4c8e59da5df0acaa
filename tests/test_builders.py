"""What a first user writes into a builder: conversions, devices, copies."""

from __future__ import annotations

import pytest
import torch

import torch_materialize as tm
from torch_materialize.inductor.offline.capture import fake_mode
from torch_materialize.models.names import Size
from torch_materialize.models.targets import load

pytestmark = pytest.mark.e2e

_FILE = """
import copy, os
import torch
from torch import nn

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(96, 64), nn.Linear(64, 96, bias=False)
        self.norm, self.batch = nn.LayerNorm(64), nn.BatchNorm1d(64)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.batch(self.norm(self.embed(ids))))

ids = torch.zeros(8, dtype=torch.long, device="cuda")

def build():
    return {body}
"""

_BODIES = {
    "half": ("Tied().half(), ids", torch.half),
    "bfloat16": ("Tied().bfloat16(), ids", torch.bfloat16),
    "to a dtype": ("Tied().to(torch.bfloat16), ids", torch.bfloat16),
    "there and back": ("Tied().half().float().double(), ids", torch.double),
    "cuda": ("Tied().cuda(), ids.cuda()", torch.float),
    "to cuda and a dtype": ("Tied().to('cuda:0', torch.half), ids.to(0)", torch.half),
    "keyword": ("Tied().to(device='cuda', dtype=torch.half), ids.pin_memory()", torch.half),
    "meta": ("Tied().to('meta').to_empty(device='cpu'), ids", torch.float),
    "on meta": ("Tied().to('meta').half(), ids", torch.half),
    "copied": ("copy.deepcopy(Tied()).half(), ids", torch.half),
    "state": ("[m := Tied(), m.load_state_dict(Tied().half().state_dict())][0], ids", torch.float),
    "saved": ("torch.load(os.environ['SAVED'], weights_only=False).half(), ids", torch.half),
    "onto cuda": (
        "[m := Tied(), m.load_state_dict(torch.load(os.environ['STATE'], map_location='cuda'))][0]"
        ".half(), ids",
        torch.half,
    ),
    "default device": ("[torch.set_default_device('cuda'), Tied()][1], ids", torch.float),
}


@pytest.mark.parametrize("name", _BODIES)
def test_a_builder_may_convert_move_and_copy(name, tmp_path, monkeypatch):
    body, dtype = _BODIES[name]
    text = _FILE.replace("{body}", body)
    file = tmp_path / "model.py"
    file.write_text(text)
    if name in ("saved", "onto cuda"):
        space = {}
        exec(text.replace(', device="cuda"', "").split("def build")[0], space)
        torch.save(space["Tied"]().state_dict(), tmp_path / "state.pt")
        monkeypatch.setenv("STATE", str(tmp_path / "state.pt"))
        tied, holder = torch.nn.Linear(8, 8), torch.nn.Module()
        holder.head = holder.embed = tied
        torch.save(holder, tmp_path / "saved.pt")
        monkeypatch.setenv("SAVED", str(tmp_path / "saved.pt"))
    with fake_mode():
        built = load(f"{file}:build", Size())
    model = built.model
    # It is still one tensor that both hold, and it has the dtype that was asked for.
    assert model.head.weight is model.embed.weight
    found = {x.dtype for x in model.state_dict().values() if x.is_floating_point()}
    assert found == {dtype}
    assert {x.device.type for x in (*model.state_dict().values(), *built.args)} == {"cpu"}
    assert torch.empty(1).device.type == "cpu"


def test_what_a_builder_cannot_do_is_told_with_its_line(tmp_path):
    file = tmp_path / "model.py"
    file.write_text("import torch\n\ndef build():\n    return torch.zeros(6).view(4, 4), ()\n")
    with (
        pytest.raises(tm.TargetError, match=r"model\.py:4 \(return torch.*invalid for input"),
        fake_mode(),
    ):
        load(f"{file}:build", Size())


def test_a_converted_builder_is_compared(tmp_path):
    from torch_materialize.jobs.explain import compare

    file = tmp_path / "model.py"
    file.write_text(_FILE.replace("{body}", "Tied().half(), ids"))
    found = compare(f"{file}:build", ["stock"], "cpu").traffic("stock").bytes
    file.write_text(_FILE.replace("{body}", "Tied(), ids"))
    assert 0 < found < compare(f"{file}:build", ["stock"], "cpu").traffic("stock").bytes
