"""The compiled forms of mask windows and of the competition for pixels: PyTorch's results, to the bit."""

from __future__ import annotations

import pytest
import torch

from oneformer.modeling.mask_resize import MaskResizer
from oneformer.modeling.postprocess import _compete_for_pixels
from segcore.ops import use_backend
from tests.oneformer.modeling.test_postprocess import SIZES
from tests.processes import check_on, on_threads

pytestmark = pytest.mark.ext


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 10


def both(function, *arguments):
    with torch.no_grad(), use_backend("torch"):
        plain = function(*[x.clone() if isinstance(x, torch.Tensor) else x for x in arguments])
    with torch.no_grad(), use_backend("cpu"):
        return function(*arguments), plain


@pytest.mark.parametrize("queries", [None, [4, 0, 2]])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_window(sizes, queries):
    masks, resize = random(5, 24, 32), MaskResizer(*sizes)
    chosen = None if queries is None else torch.tensor(queries)
    height, width = sizes[2]
    for rows in (slice(0, height), slice(height // 3, height // 3 + 1), slice(height // 2, height)):
        for columns in (slice(0, width), torch.arange(0, width, 3)):
            ours, plain = both(resize.window, masks, rows, columns, chosen)
            assert ours.equal(plain)


@pytest.mark.parametrize("pixels", [1, 511, 512, 5000])
@pytest.mark.parametrize("queries", [1, 3, 40])
def test_compete(queries, pixels):
    """Values of few bits, so that there are ties and probabilities of exactly 1/2."""
    probs = random(queries, pixels).sigmoid().mul(8).round().div(8)
    scores = random(queries).sigmoid().mul(4).round().div(4)
    ours, plain = both(_compete_for_pixels, probs, scores)
    assert ours[0].equal(plain[0])
    assert ours[1].equal(plain[1])
    assert plain[1][0].sum() == pixels


def test_threads_do_not_change_the_result():
    probs, scores = random(30, 40000).sigmoid(), random(30).sigmoid()
    found = on_threads(lambda: torch.ops.segcore_native.compete(probs, scores))
    for other in found[1:]:
        assert all(a.equal(b) for a, b in zip(found[0], other))


def test_without_vector_instructions():
    """There PyTorch rounds between multiplying and adding, and so do the compiled forms."""
    code = (
        "from tests.oneformer.modeling.test_mask_kernels import SIZES, test_compete, test_window\n"
        "for sizes in SIZES: test_window(sizes, None)\n"
        "test_compete(40, 5000)\n"
    )
    check_on("default", code)


TAPS = [torch.tensor([0, 1]), torch.tensor([1, 2]), torch.tensor([0.5, 0.5])]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((torch.zeros(2, 3, 3).double(), None, TAPS, TAPS), "float32 masks"),
        ((torch.zeros(2, 6, 3)[:, ::2], None, TAPS, TAPS), "follow each other"),
        ((torch.zeros(2, 2, 3), None, TAPS, TAPS), "place 2 of 2"),
        ((torch.zeros(2, 3, 3), torch.tensor([2]), TAPS, TAPS), "query 2 of 2"),
        ((torch.zeros(2, 3, 3), None, TAPS[:2], TAPS), "weights"),
        ((torch.zeros(2, 3, 3), None, [*TAPS[:2], TAPS[2][:1]], TAPS), "weights"),
    ],
)
def test_wrong_window(arguments, complaint):
    with pytest.raises(RuntimeError, match=complaint):
        torch.ops.segcore_native.mask_window(*arguments)


@pytest.mark.parametrize(
    "probs", [torch.zeros(0, 4), torch.zeros(2, 4).double(), torch.zeros(4, 2).T, torch.zeros(3, 4)]
)
def test_wrong_competition(probs):
    with pytest.raises(RuntimeError, match="expected contiguous"):
        torch.ops.segcore_native.compete(probs, torch.zeros(2))
