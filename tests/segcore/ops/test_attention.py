"""Attention with masks and biases: the kernel and the plain form against float64."""

from __future__ import annotations

import pytest
import torch

from segcore.ops import attention, use_backend
from segcore.ops.attention import use_query_lanes
from tests.processes import check_on, on_threads

FORMS = [pytest.param("cpu", marks=pytest.mark.ext), "torch"]
# images, heads, queries, keys, channels: blocks and tiles that are full, that are not, and of either size
SHAPES = [
    (1, 8, 150, 400, 32), (2, 3, 49, 49, 32), (3, 2, 64, 64, 16), (1, 1, 1, 1, 1), (1, 2, 81, 65, 7), (2, 1, 7, 129, 64)
]  # fmt: skip
KINDS = ["nothing", "bool", "bias", "both"]


def problem(images, heads, queries, keys, channels, kind="nothing", spread=1.0):
    draw = torch.Generator().manual_seed(0)

    def numbers(*shape):
        return torch.randn(*shape, generator=draw)

    sides = [numbers(images, n, heads, channels).transpose(1, 2) * spread for n in (queries, keys, keys)]
    mask = bias = None
    if kind == "bool":
        mask = numbers(images, 1, queries, keys) > 0.5
        mask[..., 0] |= ~mask.any(-1)
    if kind in ("bias", "both"):
        bias = numbers(1, heads, queries, keys)
    if kind == "both":
        mask = torch.where(numbers(images, 1, queries, keys) > 0, 0.0, -100.0)
    return *sides, mask, bias


def exact(query, key, value, mask, bias, scale=None):
    query, key, value = (x.double() for x in (query, key, value))
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ value


def ours(form, query, key, value, mask, bias, scale=None):
    with torch.no_grad(), use_backend(form), use_query_lanes(True):
        return attention(query, key, value, mask, bias=bias, scale=scale)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_error(shape, kind, form):
    inputs = problem(*shape, kind)
    found = ours(form, *inputs)
    assert found.shape == inputs[0].shape
    assert (found - exact(*inputs)).abs().max() < 3e-6


@pytest.mark.parametrize("form", FORMS)
def test_scale(form):
    inputs = problem(1, 2, 20, 30, 16)
    assert (ours(form, *inputs, scale=0.7) - exact(*inputs, scale=0.7)).abs().max() < 3e-6


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("direction", [1, -1])
def test_the_greatest_score_in_the_last_or_the_first_tile(form, direction):
    """All sums so far are scaled when it grows, by factors that underflow too."""
    query, key, value, *_ = problem(1, 2, 20, 300, 16)
    query[..., 0], key[..., 0] = 12.0, torch.linspace(-40, 40, 300) * direction
    assert (ours(form, query, key, value, None, None) - exact(query, key, value, None, None)).abs().max() < 1e-4


@pytest.mark.parametrize("form", FORMS)
def test_whole_tiles_forbidden(form):
    """At the beginning, in between and at the end."""
    query, key, value, *_ = problem(1, 2, 70, 300, 16)
    mask = torch.zeros(1, 1, 70, 300, dtype=torch.bool)
    mask[..., 130:140] = True
    mask[..., 5, 290] = True
    found = ours(form, query, key, value, mask, None)
    assert (found - exact(query, key, value, mask, None)).abs().max() < 3e-6
    assert ours(form, query, key, value * torch.where(mask[0, 0].any(0), 1.0, 1e6)[:, None], mask, None).equal(found)


@pytest.mark.parametrize("form", FORMS)
def test_strides(form):
    query, key, value, mask, bias = problem(2, 3, 30, 20, 16, "both")
    odd = [x.mT.contiguous().mT for x in (query, key, value, mask, bias)]
    assert (ours(form, *odd) - exact(*odd)).abs().max() < 3e-6


@pytest.mark.parametrize("form", FORMS)
def test_not_a_number_stays_one(form):
    query, *others = problem(1, 2, 90, 70, 16)
    query[0, 0, 3, 2] = torch.nan
    found = ours(form, query, *others)
    assert found[0, 0, 3].isnan().all()
    finite = torch.ones(2, 90, dtype=torch.bool)
    finite[0, 3] = False
    assert found[0][finite].isfinite().all()


@pytest.mark.ext
def test_gradients_wide_heads_and_other_types_take_the_plain_form():
    inputs = [x.double().requires_grad_() for x in problem(1, 2, 5, 6, 4)[:3]]
    with use_query_lanes(True):
        assert torch.autograd.gradcheck(attention, inputs)
        single = [x.detach().float().requires_grad_() for x in inputs]
        assert attention(*single).requires_grad
    for inputs in (problem(1, 2, 9, 9, 80), [x.double() for x in problem(1, 2, 9, 9, 8)[:3]] + [None, None]):
        plain = torch.nn.functional.scaled_dot_product_attention(*inputs[:3])
        assert ours("cpu", *inputs).equal(plain)


@pytest.mark.ext
def test_no_queries_and_no_images():
    query, key, value, *_ = problem(2, 2, 3, 4, 8)
    assert ours("cpu", query[:, :, :0], key, value, None, None).shape == (2, 2, 0, 8)
    assert ours("cpu", query[:0], key[:0], value[:0], None, None).shape == (0, 2, 3, 8)


@pytest.mark.ext
def test_threads_do_not_change_the_result():
    inputs = problem(2, 2, 400, 200, 16, "both")
    found = on_threads(lambda: ours("cpu", *inputs))
    assert found[0].equal(found[1])
    assert found[0].equal(found[2])


@pytest.mark.ext
@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_instruction_sets(capability):
    code = (
        "from tests.segcore.ops.test_attention import KINDS, SHAPES, test_error\n"
        "for shape in SHAPES:\n"
        "    for kind in KINDS: test_error(shape, kind, 'cpu')\n"
    )
    check_on(capability, code)


@pytest.mark.ext
@pytest.mark.parametrize("change", ["key", "value", "mask", "bias"])
def test_what_does_not_belong_together(change):
    inputs = dict(zip(("query", "key", "value", "mask", "bias"), problem(1, 2, 5, 6, 8, "both")))
    inputs[change] = inputs[change][..., :-1]
    with pytest.raises(RuntimeError, match="expected|belong"):
        ours("cpu", **inputs)
