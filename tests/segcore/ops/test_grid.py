"""Attention to a map of rows and columns: the kernel and the plain form against float64."""

from __future__ import annotations

import pytest
import torch

from segcore.ops import grid_attention, use_backend
from segcore.ops.grid import use_row_sums
from tests.processes import check_on, on_threads

FORMS = [pytest.param("cpu", marks=pytest.mark.ext), "torch"]
# images, heads, queries, channels, height, width
SHAPES = [
    (1, 8, 149, 32, 20, 24), (2, 4, 7, 16, 5, 9), (1, 1, 1, 32, 1, 1), (1, 2, 161, 24, 3, 2), (3, 2, 80, 8, 7, 13)
]  # fmt: skip


def problem(images, heads, queries, channels, height, width, spread=2.0):
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(images, queries, heads, channels, generator=draw).transpose(1, 2) * spread
    key = torch.randn(images, height * width, heads, channels, generator=draw).transpose(1, 2)
    rows = torch.randn(height, heads, channels, generator=draw)
    return query, key, rows, torch.randn(width, heads, channels, generator=draw)


def exact(query, key, rows, columns):
    query, key, rows, columns = (x.double() for x in (query, key, rows, columns))
    weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
    weights = weights.unflatten(-1, (len(rows), len(columns)))
    return torch.einsum("nmqyx,yxmd->nmqd", weights, rows[:, None] + columns)


def ours(form, *inputs):
    with torch.no_grad(), use_backend(form), use_row_sums(True):
        return grid_attention(*inputs)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_error(shape, form):
    inputs = problem(*shape)
    found = ours(form, *inputs)
    assert found.shape == inputs[0].shape
    assert (found - exact(*inputs)).abs().max() < 1e-5


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("direction", [1, -1])
def test_the_greatest_score_in_the_last_or_the_first_row(form, direction):
    """All sums so far are scaled when it grows, by factors that underflow too."""
    query, key, rows, columns = problem(1, 2, 20, 16, 12, 6)
    steps = torch.linspace(-40, 40, 12).mul(direction).repeat_interleave(6)
    query[..., 0], key[..., 0] = 12.0, steps
    assert (ours(form, query, key, rows, columns) - exact(query, key, rows, columns)).abs().max() < 1e-4


@pytest.mark.parametrize("form", FORMS)
def test_strides(form):
    query, key, rows, columns = problem(2, 3, 30, 16, 6, 5)
    columns = columns.repeat_interleave(2, 0)[::2]
    odd = query.mT.contiguous().mT, key.mT.contiguous().mT, rows.mT.contiguous().mT, columns
    assert (ours(form, *odd) - exact(*odd)).abs().max() < 1e-5


@pytest.mark.parametrize("form", FORMS)
def test_not_a_number_stays_one(form):
    query, key, rows, columns = problem(1, 2, 90, 16, 4, 5)
    query[0, 0, 3, 2] = torch.nan
    found = ours(form, query, key, rows, columns)
    assert found[0, 0, 3].isnan().all()
    others = torch.ones(2, 90, dtype=torch.bool).index_put((torch.tensor(0), torch.tensor(3)), torch.tensor(False))
    assert found[0][others].isfinite().all()


def test_gradients_take_the_plain_form():
    inputs = [x.double().requires_grad_() for x in problem(1, 2, 5, 4, 3, 4)]
    with use_row_sums(True):
        assert torch.autograd.gradcheck(grid_attention, inputs)
        single = [x.detach().float().requires_grad_() for x in inputs]
        assert grid_attention(*single).requires_grad


@pytest.mark.ext
def test_no_queries_and_no_images():
    query, key, rows, columns = problem(2, 2, 3, 8, 2, 2)
    assert ours("cpu", query[:, :, :0], key, rows, columns).shape == (2, 2, 0, 8)
    assert ours("cpu", query[:0], key[:0], rows, columns).shape == (0, 2, 3, 8)


@pytest.mark.ext
def test_threads_do_not_change_the_result():
    """Parts of the queries are counted by threads; each query's sums stay in one of them."""
    inputs = problem(1, 1, 400, 16, 8, 9)
    found = on_threads(lambda: ours("cpu", *inputs))
    assert found[0].equal(found[1]) and found[0].equal(found[2])


@pytest.mark.ext
@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_instruction_sets(capability):
    code = (
        "from tests.segcore.ops.test_grid import SHAPES, exact, ours, problem\n"
        "for shape in SHAPES:\n"
        "    inputs = problem(*shape)\n"
        "    assert (ours('cpu', *inputs) - exact(*inputs)).abs().max() < 1e-5, shape\n"
    )
    check_on(capability, code)


@pytest.mark.parametrize("change", ["key", "rows", "columns"])
def test_shapes_that_do_not_belong_together(change):
    inputs = dict(zip(("query", "key", "rows", "columns"), problem(1, 2, 5, 8, 3, 4)))
    inputs[change] = inputs[change][..., :-1, :]
    with pytest.raises(ValueError, match="expected"):
        grid_attention(**inputs)
