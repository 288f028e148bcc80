"""Models that are built to be loaded: nothing is written twice, nothing is held twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from segcore.checkpoint import Checkpointer, Uninitialized


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((4, 3), 7.0))
        nn.init.xavier_uniform_(self.weight)
        nn.init.kaiming_uniform_(self.weight)   # torch hands it over under a name, not by place
        self.weight.data.normal_()
        with torch.no_grad():
            self.weight.mul_(2).clamp_(0, 1)
        self.register_buffer("table", torch.zeros(3).fill_(5))


def test_parameters_stay_as_allocated():
    with Uninitialized():
        layer = Layer()
        layer.weight.requires_grad_(False)
        fused = nn.Linear(2, 2)
    assert (layer.weight == 7).all() and (layer.table == 5).all()
    assert not layer.weight.requires_grad and fused.weight.requires_grad
    assert not (Layer().weight == 7).any()   # outside of the block it is initialised


def test_taken_over_weights_are_the_files(tmp_path):
    torch.manual_seed(0)
    source = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)).double()
    torch.save({"model": source.state_dict()}, tmp_path / "a.pth")
    with Uninitialized():
        model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4))   # float32: converted
    before = model[0].weight
    Checkpointer(model, take_over=True).load(str(tmp_path / "a.pth"))
    assert model[0].weight is not before and model[0].weight.dtype == torch.float32
    assert isinstance(model[0].weight, nn.Parameter) and model[0].weight.requires_grad
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value.to(model.state_dict()[key].dtype)), key


def resident(path: Path) -> list[int]:
    """Bytes in memory of each of this process's mappings of a file."""
    found, ours = [], False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:   # the first line of a mapping; those after it are "Name: value"
            ours = line.endswith(str(path))
        elif ours and line.startswith("Rss:"):
            found.append(int(line.split()[1]) * 1024)
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells")
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_taken_over_file_stays_unread(tmp_path, suffix: str):
    layers = [nn.Linear(1024, 1024, bias=False) for _ in range(2)]
    state = {"0.weight": layers[0].weight.detach().double(), "1.weight": layers[1].weight.detach()}
    path = tmp_path / f"a{suffix}"
    if suffix == ".pth":
        torch.save({"model": state, "optimizer": {"moment": torch.ones(2**20)}}, path)
    else:
        save_file(state, path)
    with Uninitialized():
        model = nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(2)))
    Checkpointer(model, take_over=True).load(str(path))
    # Of the first layer, which is converted, nothing is left in the one mapping, of the second nothing is read.
    (size,) = resident(path)
    assert size < 2**20
    for got, expected in zip(model, layers):
        assert torch.equal(got.weight, expected.weight)


def test_without_it_an_optimizer_keeps_its_parameters(tmp_path):
    source, model = nn.Linear(2, 2), nn.Linear(2, 2)
    torch.save(source.state_dict(), tmp_path / "a.pth")
    before = model.weight
    Checkpointer(model).load(str(tmp_path / "a.pth"))
    assert model.weight is before and torch.equal(before, source.weight)
