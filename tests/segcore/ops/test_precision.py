"""Products in bfloat16: the large ones, with float32 around them, and not those that are kept."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segcore.ops import precision
from segcore.ops.linear import linear, use_onednn
from segcore.ops.precision import Bfloat16Products, is_rounded


@pytest.fixture(autouse=True)
def all_sizes(monkeypatch):
    monkeypatch.setattr(precision, "_SMALLEST", 1)


def operands(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def rounded_once(found, operands, product):
    """`found` is the exact product of the rounded operands, itself rounded to bfloat16 (8 bits) once."""
    exact = product(*(x.bfloat16().double() for x in operands))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-5)
    assert not torch.equal(found.double(), product(*(x.double() for x in operands)))


@pytest.mark.parametrize("onednn", [False, True])
def test_linear(onednn):
    tensors = operands((3, 50, 16), (8, 16), (8,))
    with use_onednn(onednn), Bfloat16Products():
        found = linear(*tensors)
    rounded_once(found, tensors, F.linear)


def test_convolutions_as_detectron2_calls_them():
    tensors = operands((2, 4, 9, 7), (6, 4, 3, 3), (6,))
    layer = nn.Conv2d(4, 6, 3, padding=1)
    layer.weight.data, layer.bias.data = tensors[1:]
    with torch.no_grad(), Bfloat16Products():
        found = layer(tensors[0])
    rounded_once(found, tensors, lambda x, w, b: F.conv2d(x, w, b, padding=1))


def test_what_is_left_alone(monkeypatch):
    x, weight = operands((1, 40, 16), (8, 16))
    kept, double, exact = nn.Linear(16, 8), x.double(), F.linear(x, weight)
    with torch.no_grad():
        of_kept = kept(x)
        with Bfloat16Products(keep=[kept]):
            assert is_rounded(x, weight) and not is_rounded(x, kept.weight)
            assert torch.equal(kept(x), of_kept)
            assert torch.equal(F.linear(double, weight.double()), (double @ weight.double().T))
            assert not torch.equal(F.linear(x, weight), exact)
            monkeypatch.setattr(precision, "_SMALLEST", 40 * 16 * 8 + 1)
            assert torch.equal(F.linear(x, weight), exact)   # too small to pay
    assert not is_rounded(x, weight)
