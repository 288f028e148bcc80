"""Weights in fewer bits: how far they are off, what keeps its bits, and that the layers use what is stored."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segcore.weight_storage import FORMS, SMALLEST, store_weights, stored_bytes


class Layers(nn.Module):
    """One layer of each kind whose weight is stored, and what is not."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 32, 3, padding=1, groups=2)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)  # has in_proj_weight
        self.linear = nn.Linear(32, 64)
        self.norm = nn.LayerNorm(64)
        self.table = nn.Parameter(torch.randn(64, 64))   # of positions, say
        self.tiny = nn.Linear(64, 2)

    def forward(self, x):
        x = self.conv(x).flatten(2).transpose(1, 2)
        x = self.attention(x, x, x, need_weights=False)[0]
        return self.tiny(self.norm(self.linear(x)) @ self.table)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Layers().eval()


STORED = ["conv.weight", "attention.in_proj_weight", "attention.out_proj.weight", "linear.weight"]


def weight_of(model: nn.Module, name: str) -> torch.Tensor:
    module, _, attribute = name.rpartition(".")
    return getattr(model.get_submodule(module), attribute)


@pytest.mark.parametrize("name", STORED)
def test_int8_is_off_by_half_a_step_of_its_channel(model, name: str):
    weight, stored = weight_of(model, name), weight_of(store_weights(model, "int8"), name)
    step = weight.abs().flatten(1).amax(1) / 127
    off = (stored - weight).abs().flatten(1).amax(1)
    assert (off <= 0.5 * step * (1 + 1e-5)).all()
    assert off.max() > 0.25 * step.min(), "nothing was rounded"


@pytest.mark.parametrize("name", STORED)
def test_bf16_keeps_eight_bits(model, name: str):
    weight, stored = weight_of(model, name), weight_of(store_weights(model, "bf16"), name)
    assert torch.equal(stored, weight.bfloat16().float())
    assert not torch.equal(stored, weight)


def test_a_channel_of_zeros_stays_so(model):
    with torch.no_grad():
        model.linear.weight[3] = 0
    assert not store_weights(model, "int8").linear.weight[3].any()


@pytest.mark.parametrize("form", FORMS)
def test_the_rest_and_the_model_itself_keep_their_bits(model, form: str):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    copied = store_weights(model, form)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    kept = {name for name, value in copied.state_dict().items() if name in before and torch.equal(value, before[name])}
    assert kept == set(before) - set(STORED)


@pytest.mark.parametrize(("form", "bits"), [("bf16", 16), ("int8", 8)])
def test_size(model, form: str, bits: int):
    numbers = sum(weight_of(model, name).numel() for name in STORED)
    scales = sum(len(weight_of(model, name)) for name in STORED) * 4 if form == "int8" else 0
    assert stored_bytes(store_weights(model, form)) == stored_bytes(model) - numbers * (32 - bits) // 8 + scales


@pytest.mark.parametrize("form", FORMS)
def test_the_layers_compute_with_what_is_stored(model, form: str):
    stored = store_weights(model, form)
    rounded = Layers().eval()
    rounded.load_state_dict(model.state_dict())
    with torch.no_grad():
        for name in STORED:
            weight_of(rounded, name).copy_(weight_of(stored, name))
        x = torch.randn(1, 8, 6, 5, generator=torch.Generator().manual_seed(1))
        assert torch.allclose(stored(x), rounded(x), atol=1e-6)
        assert not torch.allclose(stored(x), model(x), atol=1e-6)


def test_fp32_is_the_model_itself(model):
    assert store_weights(model, "fp32") is model


def test_an_unknown_form_is_named(model):
    with pytest.raises(ValueError, match="fp32, bf16 or int8, not 'int4'"):
        store_weights(model, "int4")


def test_a_model_without_such_weights_is_refused():
    small = nn.Linear(SMALLEST // 8, 7)
    with pytest.raises(ValueError, match="Linear has no fp32 weight of 1024 numbers or more to store as int8"):
        store_weights(small, "int8")
