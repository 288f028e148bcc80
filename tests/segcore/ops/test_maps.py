"""Layers that write over their input, against float64 and against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segcore.ops import consume_conv, consume_norm, use_backend
from segcore.ops.linear import use_onednn
from segcore.ops.maps import _STRIP
from segcore.ops.precision import Bfloat16Products
from tests.processes import check_on, on_threads

FORMS = [pytest.param("cpu", marks=pytest.mark.ext), "torch"]
SIZES = [(1, 1), (1, 9), (7, 1), (7, 9), (12, 20), (33, 50), (6, 4 * _STRIP)]  # one strip and several; odd and even


def channels_last(*shape, spread=1.0, mean=0.0):
    draw = torch.Generator().manual_seed(sum(shape))
    return (torch.randn(*shape, generator=draw) * spread + mean).to(memory_format=torch.channels_last)


def layer(channels, side, bias=True):
    torch.manual_seed(0)
    return nn.Conv2d(channels, channels, side, padding=side // 2, bias=bias)


def norm_of(channels, groups):
    torch.manual_seed(0)
    norm = nn.GroupNorm(groups, channels)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def ours(form, function, x, *arguments, **options):
    """The result, and whether it lies where the input lay."""
    x = x.clone(memory_format=torch.preserve_format)
    with torch.no_grad(), use_backend(form), use_onednn(True):
        found = function(x, *arguments, **options)
    return found, found.data_ptr() == x.data_ptr()


def exact_norm(x, norm, relu=False, add=None):
    out = F.group_norm(x.double(), norm.num_groups, norm.weight.double(), norm.bias.double(), norm.eps)
    if add is not None:
        out = out + F.interpolate(add.double(), size=x.shape[-2:], mode="bilinear", align_corners=False)
    return out.relu() if relu else out


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_conv(size, side, form):
    x, conv = channels_last(2, 8, *size), layer(8, side)
    found, in_place = ours(form, consume_conv, x, conv)
    exact = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=side // 2)
    assert (found - exact).abs().max() < 3e-6
    assert in_place == (form == "cpu")


@pytest.mark.ext
def test_error_of_many_channels_is_below_that_of_the_plain_sum():
    x, conv = channels_last(1, 256, 40, 40), layer(256, 3, bias=False)
    exact = F.conv2d(x.double(), conv.weight.double(), padding=1)
    with torch.no_grad():
        plain = (F.conv2d(x, conv.weight, padding=1) - exact).abs().max()
    found, _ = ours("cpu", consume_conv, x, conv)
    assert (found - exact).abs().max() <= 2 * plain


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("follows", ["nothing", "relu", "add"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_norm(size, follows, form):
    x, norm = channels_last(2, 24, *size), norm_of(24, 8)
    half = channels_last(2, 24, (size[0] + 1) // 2, (size[1] + 1) // 2)
    options = {"relu": {"relu": True}, "add": {"add": half}}.get(follows, {})
    found, in_place = ours(form, consume_norm, x, norm, **options)
    assert (found - exact_norm(x, norm, **options)).abs().max() < 2e-5
    if form == "cpu":
        assert in_place


@pytest.mark.ext
def test_norm_of_numbers_far_from_zero_keeps_its_digits():
    """The plain difference of mean square and squared mean would lose them all."""
    x, norm = channels_last(1, 16, 64, 64, mean=3000.0), norm_of(16, 4)
    found, _ = ours("cpu", consume_norm, x, norm)
    assert (found - exact_norm(x, norm)).abs().max() < 2e-3  # x itself has a spacing of 2.4e-4


def test_without_a_norm():
    x, half = channels_last(1, 8, 6, 6), channels_last(1, 8, 3, 3)
    found, _ = ours("torch", consume_norm, x, None, add=half, relu=True)
    assert found.equal((x + F.interpolate(half, size=(6, 6), mode="bilinear")).relu())


@pytest.mark.ext
def test_not_a_number_stays_one():
    x = channels_last(1, 8, 9, 9)
    x[0, 3, 4, 4] = torch.nan
    found, _ = ours("cpu", consume_conv, x, layer(8, 3))
    assert found[0, :, 3:6, 3:6].isnan().all()
    assert found[0, :, 7:].isfinite().all()
    found, _ = ours("cpu", consume_norm, x, norm_of(8, 2), relu=True)
    assert found[0, :4].isnan().all()
    assert found[0, 4:].isfinite().all()


@pytest.mark.ext
def test_gradients_and_other_layers_take_the_plain_form():
    x = channels_last(1, 8, 6, 6).requires_grad_()
    before = x.detach().clone()
    with use_onednn(True):
        y = consume_norm(consume_conv(x, layer(8, 3)), norm_of(8, 2), relu=True)
        y.sum().backward()
    assert x.grad.abs().sum() > 0
    assert x.detach().equal(before)
    for conv in (nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, padding=1, groups=2),
                 nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")):  # fmt: skip
        found, in_place = ours("cpu", consume_conv, before, conv)
        assert not in_place
        assert found.allclose(conv(before), atol=1e-6), conv


@pytest.mark.ext
def test_other_layouts_take_the_plain_form():
    x, conv = channels_last(1, 8, 6, 7).contiguous(), layer(8, 3)
    found, in_place = ours("cpu", consume_conv, x, conv)
    assert not in_place
    assert found.allclose(conv(x), atol=1e-6)


@pytest.mark.ext
def test_rounded_products_are_not_made_of_sums():
    """In bfloat16 the inputs are rounded, never what Winograd makes of them."""
    x, conv = channels_last(1, 64, 32, 32), layer(64, 3)
    with Bfloat16Products():
        found, _ = ours("cpu", consume_conv, x, conv)
        with torch.no_grad():
            assert found.equal(F.conv2d(x, conv.weight, conv.bias, padding=1))


@pytest.mark.ext
def test_threads_do_not_change_the_result():
    x, norm, conv = channels_last(1, 16, 96, 64), norm_of(16, 4), layer(16, 3)
    found = on_threads(
        lambda: (ours("cpu", consume_norm, x, norm, relu=True)[0], ours("cpu", consume_conv, x, conv)[0])
    )
    for other in found[1:]:
        assert found[0][0].equal(other[0])
        assert (found[0][1] - other[1]).abs().max() < 1e-6  # the products are the library's


@pytest.mark.ext
def test_without_vector_instructions():
    code = (
        "from tests.segcore.ops.test_maps import SIZES, test_conv, test_norm\n"
        "for size in SIZES:\n"
        "    for side in (1, 3): test_conv(size, side, 'cpu')\n"
        "    for follows in ('nothing', 'relu', 'add'): test_norm(size, follows, 'cpu')\n"
    )
    check_on("default", code)


@pytest.mark.ext
@pytest.mark.parametrize(
    ("name", "arguments", "complaint"),
    [
        ("group_norm_", lambda x, v: (x[:, ::2], 2, v, v, 1e-5, False, None), "contiguous"),
        ("group_norm_", lambda x, v: (x, 3, v, v, 1e-5, False, None), "3 groups"),
        ("group_norm_", lambda x, v: (x, 2, v[1:], v, 1e-5, False, None), "weights"),
        ("group_norm_", lambda x, v: (x, 2, v, v, 1e-5, False, x[..., :4].contiguous()), "to add"),
        ("group_norm_", lambda x, v: (x, 2, v, v, 1e-5, True, x), "either"),
        ("winograd_kernels", lambda x, v: (x,), "kernels"),
        ("winograd_spread", lambda x, v: (x[0], 0, 3, x[0, 0], x.new_empty(16, 99, 8)), "whole tiles"),
        ("winograd_spread", lambda x, v: (x[0], 4, 4, x[0, 0], x.new_empty(16, 99, 8)), "whole tiles"),
        ("winograd_spread", lambda x, v: (x[0], 0, 4, x[0, 0], x.new_empty(16, 5, 8)), "memory"),
        ("winograd_spread", lambda x, v: (x[0], 0, 4, x[0, 0, 1:], x.new_empty(16, 99, 8)), "row above"),
        ("winograd_gather_", lambda x, v: (x[0], 0, 4, [x[0, 0]] * 15), "16 products"),
        ("winograd_gather_", lambda x, v: (x[0], 0, 4, [x[0, 0, 1:]] * 16), "products"),
    ],
)  # fmt: skip
def test_wrong_input(name, arguments, complaint):
    with pytest.raises(RuntimeError, match=complaint):
        getattr(torch.ops.segcore_native, name)(*arguments(torch.zeros(1, 6, 6, 8), torch.zeros(8)))
