"""The oneDNN form of a linear layer against F.linear and float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segcore.ops import in_fast_layout, linear, row_products, speed_up_linears
from segcore.ops.linear import Linear, use_onednn


def layer(seed, shape, out_features, bias=True):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator)
    weight = torch.randn(out_features, shape[-1], generator=generator)
    return x, weight, torch.randn(out_features, generator=generator) if bias else None


def results(function, x, weight, bias):
    """Output and gradients."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, weight, bias) if t is not None]
    out = function(*leaves)
    out.backward(torch.ones_like(out).cumsum(-1) / out.shape[-1])
    return [out.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize(
    "shape, out", [((2, 300, 128), 256), ((4100, 64), 33), ((1, 1, 3000, 96), 48), ((5, 512), 4096)]
)
@pytest.mark.parametrize("bias", [True, False])
def test_error(shape, out, bias):
    x, weight, offset = layer(0, shape, out, bias)
    exact = results(F.linear, *(t.double() if t is not None else None for t in (x, weight, offset)))
    with use_onednn(False):
        base = results(linear, x, weight, offset)
    with use_onednn(True):
        ours = results(linear, x, weight, offset)
        with torch.no_grad():  # another form of oneDNN's
            inference = linear(x, weight, offset)
    for e, b, o in zip([*exact, exact[0]], [*base, base[0]], [*ours, inference], strict=True):
        assert o.shape == e.shape and o.is_contiguous()
        # Another order of summation: as far from the truth as F.linear is, give or take.
        assert (o - e).abs().max() <= 4 * (b - e).abs().max() + 1e-6 * e.abs().max()


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("tokens", [3000, 7])
def test_relu_inside(onednn, tokens):
    """With and without gradients, large (oneDNN) and small."""
    x, weight, bias = (t.round() for t in layer(4, (2, tokens, 128), 256))
    bias += 0.5  # whole numbers and a half: no rounding decides which units are on
    exact = results(lambda *t: F.relu(F.linear(*t)), *(t.double() for t in (x, weight, bias)))
    with use_onednn(onednn):
        ours = results(lambda *t: linear(*t, relu=True), x, weight, bias)
        with torch.no_grad():
            inference = linear(x, weight, bias, relu=True)
            transposed = linear(x.mT.contiguous().mT, weight, bias, relu=True)
    assert ours[0].eq(0).any() and inference.is_contiguous()
    for e, o in zip([exact[0], exact[0], *exact], [inference, transposed, *ours], strict=True):
        torch.testing.assert_close(o.double(), e, atol=1e-5 * e.abs().max().item(), rtol=0)


def test_transposed_input_gives_a_row_major_output():
    """SDPA falls off its fast path when the last dimension of a key or value is not contiguous."""
    x = torch.randn(1, 128, 4000).transpose(1, 2)
    weight = torch.randn(128, 128)
    with use_onednn(True):
        out = linear(x, weight)
    assert out.is_contiguous()
    torch.testing.assert_close(out, F.linear(x, weight), atol=1e-4, rtol=1e-4)


def test_small_and_other_dtypes_are_f_linear():
    with use_onednn(True):
        x, weight, bias = layer(1, (7, 16), 5)
        assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))
        assert linear(torch.randn(0, 16), weight, bias).shape == (0, 5)
        x, weight, bias = (t.double() for t in layer(2, (4000, 64), 64))
        assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))
        x, weight, bias = layer(3, (4000, 64), 64)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def test_speed_up_linears():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), Scaled(128, 64))
    state, x = {k: v.clone() for k, v in model.state_dict().items()}, torch.randn(3000, 64)
    expected = model(x)
    speed_up_linears(model)
    assert type(model[0]) is Linear and type(model[2]) is Scaled
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    with use_onednn(True):
        torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)


def test_compiled_graphs_keep_the_linear():
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("eager")
    module = Linear(64, 64)
    with use_onednn(True):
        torch.compile(module, backend=counter, fullgraph=True)(torch.randn(4000, 64))
    calls = [str(node.target) for node in counter.graphs[0].graph.nodes if node.op == "call_function"]
    assert any("linear" in call for call in calls) and not any("conv" in call for call in calls)


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("tokens", [True, False])
def test_fast_layout(images, tokens):
    """Channels last under oneDNN, recognised as such for one image too; untouched without; no copy where it lay so."""
    x = torch.randn(images, 5 * 7, 6)
    x = x.transpose(1, 2).unflatten(2, (5, 7)) if tokens else x.view(images, 6, 5, 7)
    with use_onednn(True):
        ours = in_fast_layout(x)
    with use_onednn(False):
        assert in_fast_layout(x) is x
    assert ours.equal(x) and ours.stride() == (5 * 7 * 6, 1, 7 * 6, 6)
    assert (ours.data_ptr() == x.data_ptr()) == tokens
    # what a convolution makes of it stays channels last
    assert F.conv2d(ours, torch.randn(8, 6, 1, 1)).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("onednn", [True, False])
def test_row_products(batch, contiguous, onednn):
    x, y = torch.randn(batch, 70, 128), torch.randn(batch, 2000, 128)
    y = y if contiguous else y.mT.contiguous().mT
    exact = x.double() @ y.double().mT
    with torch.no_grad(), use_onednn(onednn):
        ours = row_products(x, y)
    assert (ours - exact).abs().max() <= 4 * (x @ y.mT - exact).abs().max()
    with use_onednn(onednn):
        assert row_products(x.requires_grad_(), y).requires_grad
