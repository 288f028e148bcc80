"""Deformable attention: every backend against a loop over points and against the reference in fp64."""

from __future__ import annotations

import math

import pytest
import torch

from segcore.ops import available_backends, ms_deform_attn, ms_deform_attn_fused, use_backend
from tests.segcore.ops.inputs import make, make_fused

BACKENDS = ["reference", "torch", "cpu"]
BACKENDS = [name for name in BACKENDS if not available_backends()[name]]


def brute_force(value, shapes, locations, weights):
    """Equation 3 of Deformable DETR, one tap at a time."""
    batch, _, heads, channels = value.shape
    queries = locations.shape[1]
    output = value.new_zeros(batch, queries, heads, channels)
    for b, q, m, level, p in torch.cartesian_prod(*map(torch.arange, locations.shape[:5])).tolist():
        start = sum(shapes[2 * i] * shapes[2 * i + 1] for i in range(level))
        height, width = shapes[2 * level : 2 * level + 2]
        x = locations[b, q, m, level, p, 0].item() * width - 0.5
        y = locations[b, q, m, level, p, 1].item() * height - 0.5
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                if 0 <= row < height and 0 <= column < width:
                    part = (1 - abs(y - row)) * (1 - abs(x - column)) * weights[b, q, m, level, p]
                    output[b, q, m] += part * value[b, start + row * width + column, m]
    return output.flatten(2)


CASES = {
    "three levels": (2, 5, 8, 32, [9, 7, 5, 4, 3, 2], 4),
    "one level": (1, 7, 2, 32, [6, 5], 4),
    "one query": (1, 1, 8, 32, [4, 4, 2, 2], 4),
    "1x1 maps": (1, 3, 2, 8, [1, 1, 1, 1], 2),
    "8 channels": (1, 4, 3, 8, [5, 7, 3, 3], 3),
    "16 channels": (1, 4, 3, 16, [5, 7, 3, 3], 5),
    "64 channels": (1, 4, 2, 64, [5, 7, 3, 3], 4),
    "20 channels": (1, 4, 2, 20, [5, 7], 1),
    "many points": (1, 3, 2, 32, [6, 6, 5, 5, 4, 4, 3, 3, 2, 2], 9),
}


def many_queries(case):
    """The case with 150 queries: the largest error of a handful of numbers is a matter of luck."""
    batch, _, *rest = CASES[case]
    return batch, 150, *rest


def gradients(inputs, backend, direction, function=ms_deform_attn):
    leaves = [x.detach().clone().requires_grad_() if isinstance(x, torch.Tensor) else x for x in inputs]
    with use_backend(backend):
        output = function(*leaves)
        output.backward(direction.to(output.dtype))
    return [output.detach(), *(x.grad for x in leaves if isinstance(x, torch.Tensor))]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_equals_loop_over_taps(backend, case):
    inputs = make(*CASES[case], dtype=torch.float64)
    with use_backend(backend):
        torch.testing.assert_close(ms_deform_attn(*inputs), brute_force(*inputs), atol=1e-12, rtol=0)


def assert_error_within_twice_the_reference(backend, inputs, function=ms_deform_attn):
    """Error against fp64 at most twice the fp32 reference's own (flash attention's rule), everywhere."""
    wide = [x.double() if isinstance(x, torch.Tensor) else x for x in inputs]
    with use_backend("reference"):
        shape = function(*wide).shape
    direction = torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    exact = gradients(wide, "reference", direction, function)
    base = gradients(inputs, "reference", direction, function)
    ours = gradients(inputs, backend, direction, function)
    names = ["output", "grad 0", "grad 1", "grad 2", "grad 3"]
    for name, e, b, o in zip(names, exact, base, ours):
        allowed = 2 * (b.double() - e).abs().max() + 1e-7
        assert (o.double() - e).abs().max() <= allowed, name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_error_against_double(backend, case):
    assert_error_within_twice_the_reference(backend, make(*many_queries(case)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck(backend):
    value, shapes, locations, weights = make(2, 3, 2, 8, [5, 4, 3, 2], 2, dtype=torch.float64)
    leaves = [x.requires_grad_() for x in (value, locations, weights)]
    with use_backend(backend):
        assert torch.autograd.gradcheck(lambda v, p, w: ms_deform_attn(v, shapes, p, w), leaves)


@pytest.mark.parametrize("backend", BACKENDS)
def test_fused_gradcheck(backend):
    inputs = make_fused(2, 3, 2, 8, [5, 4, 3, 2], 2, dtype=torch.float64)
    shapes = inputs.pop(1)
    leaves = [x.requires_grad_() for x in inputs]
    with use_backend(backend):
        assert torch.autograd.gradcheck(lambda v, *rest: ms_deform_attn_fused(v, shapes, *rest), leaves)


@pytest.mark.parametrize("backend", BACKENDS)
def test_constant_map_returns_the_weight_inside(backend):
    """A map of ones gives each query the sum of its weights, half of it on an edge, and 0 far outside."""
    shapes = [6, 4]
    value = torch.ones(1, 24, 2, 8)
    locations = torch.tensor([[0.5, 0.5], [0.0, 0.5], [1.0, 0.5], [0.0, 0.0], [9.0, -7.0], [1e30, 0.5]])
    locations = locations.view(1, 6, 1, 1, 1, 2).expand(1, 6, 2, 1, 1, 2)
    weights = torch.full((1, 6, 2, 1, 1), 0.8)
    with use_backend(backend):
        output = ms_deform_attn(value, shapes, locations, weights)
    expected = torch.tensor([0.8, 0.4, 0.4, 0.2, 0.0, 0.0])[None, :, None].expand(1, 6, 16)
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch, queries", [(0, 3), (2, 0), (0, 0)])
def test_empty(backend, batch, queries):
    inputs = make(batch, queries, 2, 8, [4, 3], 2)
    output, *grads = gradients(inputs, backend, torch.zeros(batch, queries, 16))
    assert output.shape == (batch, queries, 16)
    assert [x.shape for x in grads] == [x.shape for x in inputs if isinstance(x, torch.Tensor)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("which", [0, 2, 3])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_in_nan_out(backend, which, bad):
    inputs = list(make(1, 3, 2, 8, [4, 3], 2, spread=0.3))
    inputs[which] = inputs[which].clone()
    inputs[which].view(-1)[:] = bad
    with use_backend(backend):
        output = ms_deform_attn(*inputs)
    assert not output.isfinite().any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_stays_in_its_query(backend):
    value, shapes, locations, weights = make(1, 3, 2, 8, [4, 3], 2)
    clean = ms_deform_attn(value, shapes, locations, weights)
    locations = locations.clone()
    locations[0, 1, 1, 0, 0, 0] = float("nan")
    with use_backend(backend):
        output = ms_deform_attn(value, shapes, locations, weights)
    assert output[0, 1, 8:].isnan().all()
    torch.testing.assert_close(output[0, [0, 2]], clean[0, [0, 2]])
    torch.testing.assert_close(output[0, 1, :8], clean[0, 1, :8])


@pytest.mark.parametrize("backend", BACKENDS)
def test_non_contiguous_input(backend):
    inputs = make(2, 5, 4, 32, [6, 5, 3, 2], 4)
    value, shapes, locations, weights = inputs
    strided = (
        value.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2),
        shapes,
        locations.transpose(0, 5).contiguous().transpose(0, 5),
        torch.cat((weights, weights), -1)[..., :4],
    )
    direction = torch.randn(2, 5, 128, generator=torch.Generator().manual_seed(3))
    for mine, plain in zip(gradients(strided, backend, direction), gradients(inputs, backend, direction)):
        torch.testing.assert_close(mine, plain)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_only_rounding(backend, dtype):
    """Half-precision values, fp32 geometry: one rounding of the result is all that may be lost."""
    value, *rest = make(1, 50, 8, 32, [9, 7, 5, 4], 4)
    inputs = (value.to(dtype), *rest)
    wide = [x.double() if isinstance(x, torch.Tensor) else x for x in inputs]
    direction = torch.randn(1, 50, 256, generator=torch.Generator().manual_seed(3)).to(dtype)
    exact = gradients(wide, "reference", direction.double())
    ours = gradients(inputs, backend, direction)
    assert [x.dtype for x in ours] == [dtype, dtype, torch.float32, torch.float32]
    for mine, true in zip(ours, exact):
        rounding = torch.finfo(mine.dtype).eps / 2 * true.abs() if mine.dtype == dtype else 0
        assert ((mine.double() - true).abs() <= rounding + 1e-5 * max(1, true.abs().max())).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_fused_equals_its_parts(backend, case):
    """Softmax and locations written out here, then the plain operator: values and gradients, in fp64."""

    def parts(value, shapes, reference_points, offsets, logits):
        normaliser = torch.tensor(shapes).view(-1, 2).flip(1).to(offsets)
        locations = reference_points[:, :, None, :, None] + offsets / normaliser[:, None]
        weights = logits.flatten(-2).softmax(-1).view_as(logits)
        return ms_deform_attn(value, shapes, locations, weights)

    inputs = make_fused(*CASES[case], dtype=torch.float64)
    batch, queries, heads, channels = CASES[case][:4]
    direction = torch.randn(batch, queries, heads * channels, generator=torch.Generator().manual_seed(5))
    fused = gradients(inputs, backend, direction, ms_deform_attn_fused)
    for mine, true in zip(fused, gradients(inputs, "reference", direction, parts)):
        torch.testing.assert_close(mine, true, atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_fused_error_against_double(backend, case):
    assert_error_within_twice_the_reference(backend, make_fused(*many_queries(case)), ms_deform_attn_fused)


@pytest.mark.parametrize("backend", BACKENDS)
def test_fused_shares_reference_points_over_the_batch(backend):
    value, shapes, points, offsets, logits = make_fused(2, 3, 2, 8, [5, 4, 3, 2], 2)
    with use_backend(backend):
        shared = ms_deform_attn_fused(value, shapes, points[:1], offsets, logits)
        each = ms_deform_attn_fused(value, shapes, points[:1].expand(2, -1, -1, -1), offsets, logits)
    torch.testing.assert_close(shared, each)


def test_errors_name_the_problem():
    value, shapes, locations, weights = make(1, 3, 2, 8, [4, 3], 2)
    with pytest.raises(ValueError, match="sum of level sizes is 16 but value has 12 tokens"):
        ms_deform_attn(value, [4, 4], locations, weights)
    with pytest.raises(ValueError, match="even number of ints"):
        ms_deform_attn(value, [12], locations, weights)
    with pytest.raises(TypeError, match="shapes is a tensor"):
        ms_deform_attn(value, torch.tensor([4, 3]), locations, weights)
    with pytest.raises(ValueError, match=r"locations must be .*heads 2 and levels 1"):
        ms_deform_attn(value, shapes, locations[:, :, :1], weights)
    with pytest.raises(ValueError, match="weights must be"):
        ms_deform_attn(value, shapes, locations, weights[..., :1])
    with pytest.raises(TypeError, match="floating point"):
        ms_deform_attn(value.long(), shapes, locations, weights)
    with pytest.raises(ValueError, match="reference_points must be"):
        ms_deform_attn_fused(value, shapes, torch.zeros(1, 4, 1, 2), locations, weights)
