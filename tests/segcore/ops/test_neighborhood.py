"""Neighbourhood attention against a loop over pixels, and its errors."""

from __future__ import annotations

import functools

import pytest
import torch

from segcore.ops import available_backends, neighborhood_attention_2d, pad_to_window, use_backend

BACKENDS = ["reference", "torch", "cpu"]
BACKENDS = [name for name in BACKENDS if not available_backends()[name]]


def brute_force(query, key, value, kernel, dilation, rpb, scale):
    """One pixel at a time: the window is found by searching for the K nearest pixels of the same residue."""

    def window(position, length):
        group = [p for p in range(length) if p % dilation == position % dilation]
        place = group.index(position)
        first = min(max(place - kernel // 2, 0), len(group) - kernel)
        return [(p, (p - position) // dilation + kernel - 1) for p in group[first : first + kernel]]

    height, width = query.shape[2:4]
    output = torch.zeros_like(query)
    for y in range(height):
        for x in range(width):
            rows, columns = window(y, height), window(x, width)
            at = torch.cartesian_prod(torch.tensor([r[0] for r in rows]), torch.tensor([c[0] for c in columns]))
            keys, values = key[:, :, at[:, 0], at[:, 1]], value[:, :, at[:, 0], at[:, 1]]
            logits = (query[:, :, y, x, None] * keys).sum(-1) * scale
            if rpb is not None:
                logits = logits + rpb[:, [[r[1]] for r in rows], [c[1] for c in columns]].flatten(1)
            output[:, :, y, x] = (logits.softmax(-1)[..., None] * values).sum(2)
    return output


def make(shape, kernel, dtype=torch.float32, bias=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3))
    side = 2 * kernel - 1
    rpb = (
        torch.randn(shape[1], side, side, generator=generator, dtype=torch.float64).to(dtype)
        if bias
        else None
    )
    return q, k, v, rpb


CASES = [
    # batch, heads, height, width, channels, kernel, dilation, bias
    (1, 1, 3, 3, 4, 3, 1, True),
    (2, 2, 7, 5, 8, 3, 1, True),
    (1, 3, 9, 14, 8, 7, 1, False),
    (1, 2, 13, 11, 32, 11, 1, True),
    (1, 2, 11, 9, 8, 3, 2, True),
    (1, 1, 17, 12, 4, 5, 2, True),
    (1, 2, 14, 15, 4, 5, 1, True),
    (1, 1, 23, 25, 4, 7, 3, True),
    (1, 1, 22, 25, 4, 11, 2, True),
    (1, 1, 37, 36, 2, 9, 4, True),
    (2, 1, 40, 43, 2, 5, 8, False),
    (1, 1, 50, 49, 2, 3, 16, True),
    (1, 1, 14, 17, 20, 13, 1, True),  # more columns than a vector's, channels that fill no whole vectors
]


def with_gradients(function, case, dtype):
    """Output and gradients of one case, in `dtype`."""
    *shape, kernel, dilation, bias = case
    inputs = [x if x is None else x.to(dtype).requires_grad_() for x in make(shape, kernel, bias=bias)]
    output = function(*inputs[:3], kernel, dilation, inputs[3], 0.37)
    output.backward(torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(dtype))
    return [output.detach(), *(x.grad for x in inputs if x is not None)]


@functools.cache
def exact(case):
    return with_gradients(brute_force, case, torch.float64)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "x".join(map(str, case)))
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_loop_over_pixels(backend, case):
    with use_backend(backend):
        ours = with_gradients(neighborhood_attention_2d, case, torch.float32)
    for place, (mine, true) in enumerate(zip(ours, exact(case))):
        size = max(1, true.abs().max()) if place else 1  # gradients add up hundreds of terms
        torch.testing.assert_close(mine.double(), true, atol=1e-5 * size, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["key", "value"])
def test_what_is_not_finite_reaches_the_pixels_that_see_it(backend, poison, place):
    q, k, v, rpb = make((1, 1, 9, 8, 8), 3)
    with use_backend(backend):
        clean = neighborhood_attention_2d(q, k, v, 3, 1, rpb)
        (k if place == "key" else v)[0, 0, 4, 4] = poison
        output = neighborhood_attention_2d(q, k, v, 3, 1, rpb)
    sees = torch.zeros(9, 8, dtype=torch.bool)
    sees[3:6, 3:6] = True
    assert (~output[0, 0][sees].isfinite()).any(-1).all()
    if backend != "torch":  # dense attention multiplies with every key
        assert torch.equal(output[0, 0][~sees], clean[0, 0][~sees])


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "torch"])
@pytest.mark.parametrize("place", range(3), ids=["query", "key", "value"])
def test_gradients_beyond_a_nan_are_as_without_it(backend, place):
    """A NaN at one pixel reaches the queries that see it and, through them, what they see: two windows around it."""
    inputs = make((1, 1, 13, 14, 8), 3)

    def gradients():
        leaves = [x.clone().requires_grad_() for x in inputs]
        with use_backend(backend):
            neighborhood_attention_2d(*leaves[:3], 3, 1, leaves[3]).square().sum().backward()
        return [x.grad for x in leaves[:3]]

    clean = gradients()
    inputs[place][0, 0, 6, 6, 3] = float("nan")
    beyond = torch.ones(13, 14, dtype=torch.bool)
    beyond[4:9, 4:9] = False
    for poisoned, expected in zip(gradients(), clean):
        assert poisoned[0, 0].isnan().any()
        torch.testing.assert_close(poisoned[0, 0][beyond], expected[0, 0][beyond], atol=1e-6, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck(backend):
    inputs = [x.requires_grad_() for x in make((1, 2, 5, 7, 3), 3, torch.float64)]
    with use_backend(backend):
        assert torch.autograd.gradcheck(
            lambda q, k, v, r: neighborhood_attention_2d(q, k, v, 3, 1, r), inputs
        )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_only_input_rounding(backend, dtype):
    q, k, v, rpb = make((1, 2, 9, 8, 16), 5, dtype)
    with use_backend("reference"):
        exact = neighborhood_attention_2d(q.double(), k.double(), v.double(), 5, 1, rpb.double())
    with use_backend(backend):
        ours = neighborhood_attention_2d(q, k, v, 5, 1, rpb)
    assert ours.dtype == dtype
    # fp32 inside: what remains is the rounding of the result, half a unit in the last place
    assert ((ours.double() - exact).abs() <= exact.abs() * torch.finfo(dtype).eps / 2 + 1e-5).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_non_contiguous_input(backend):
    q, k, v, rpb = make((1, 2, 6, 7, 8), 3)
    strided = [x.permute(0, 2, 3, 1, 4).contiguous().permute(0, 3, 1, 2, 4) for x in (q, k, v)]
    with use_backend(backend):
        torch.testing.assert_close(
            neighborhood_attention_2d(*strided, 3, 1, rpb),
            neighborhood_attention_2d(q, k, v, 3, 1, rpb),
            atol=1e-6,
            rtol=0,
        )


def test_pad_to_window():
    x = torch.ones(2, 5, 30, 3)
    padded = pad_to_window(x, 7, 3)
    assert padded.shape == (2, 21, 30, 3)
    assert padded[:, :5].eq(1).all() and padded[:, 5:].eq(0).all()
    assert pad_to_window(x, 5) is x


def test_errors_name_the_problem():
    q, k, v, rpb = make((1, 2, 6, 7, 8), 3)
    with pytest.raises(ValueError, match=r"6 x 7 map is smaller than kernel_size \* dilation = 3 \* 3"):
        neighborhood_attention_2d(q, k, v, 3, 3)
    with pytest.raises(ValueError, match="kernel_size must be odd and positive; got 4"):
        neighborhood_attention_2d(q, k, v, 4)
    with pytest.raises(ValueError, match=r"rpb must be .*\(2, 5, 5\)"):
        neighborhood_attention_2d(q, k, v, 3, 1, rpb[:1])
    with pytest.raises(ValueError, match="one shape"):
        neighborhood_attention_2d(q, k[:, :1], v, 3)
    with pytest.raises(TypeError, match="one floating dtype"):
        neighborhood_attention_2d(q, k.half(), v, 3)
