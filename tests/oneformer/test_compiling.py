"""torch.compile: whole graphs, one for all sizes, the same results."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model

import oneformer.modeling  # noqa: F401
from oneformer.compiling import compile_parts
from tests.oneformer.modeling.golden import config

SMALL = (
    "MODEL.IS_TRAIN", False, "MODEL.SWIN.DEPTHS", [2, 1, 1, 1], "MODEL.SWIN.EMBED_DIM", 24, "MODEL.SWIN.WINDOW_SIZE", 2,
    "MODEL.ONE_FORMER.NUM_OBJECT_QUERIES", 6, "MODEL.ONE_FORMER.DEC_LAYERS", 4,
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 1,
)  # fmt: skip
# With and without padding of windows, square and not; two windows at least. PyTorch runs a convolution of fewer than
# 20480 numbers otherwise: with 13,700 to 27,300 pixels, the small Swin's map of stride 4 has more and the others fewer.
SIZES = [
    (96, 160), (160, 96), (128, 128), (160, 160), (96, 256), (256, 96), (192, 128), (100, 150), (66, 130), (96, 224),
]  # fmt: skip


@pytest.fixture
def fresh():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("name", "scale"),
    # Twice as large, every map of R50 has more than those 20480 numbers.
    [("ade20k/oneformer_swin_t", 1), pytest.param("ade20k/oneformer_r50", 2, marks=pytest.mark.slow)],
)
def test_one_graph_for_ten_sizes(name, scale, fresh):
    """`compile_parts` asks for whole graphs, so that a break raises; after one picture no size compiles again."""
    torch.manual_seed(0)
    model = build_model(config(name, *SMALL)).eval()
    pictures = [{"image": torch.rand(3, h * scale, w * scale) * 255, "task": "all"} for h, w in SIZES]
    with torch.inference_mode():
        expected = [model.predict_queries([x]) for x in pictures]
        compile_parts(model, "eager")
        model.predict_queries([{"image": torch.rand(3, 160 * scale, 128 * scale), "task": "all"}])
        with torch._dynamo.config.patch(error_on_recompile=True):
            for x, wanted in zip(pictures, expected, strict=True):
                found = model.predict_queries([x])
                for key in wanted:
                    torch.testing.assert_close(found[key], wanted[key], rtol=1e-3, atol=1e-3)
    # Backbone, pixel decoder, and the decoder's three steps; nothing broke off.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 5
    assert not torch._dynamo.utils.counters["graph_break"]


def test_what_cannot_be_compiled():
    model = build_model(config("ade20k/oneformer_swin_t", *SMALL))
    with pytest.raises(ValueError, match="call eval"):
        compile_parts(model.train(), "eager")
    with pytest.raises(ValueError, match="unknown torch.compile backend 'fast'"):
        compile_parts(model.eval(), "fast")
