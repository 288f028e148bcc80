"""The forms of the operators that are fastest on this processor, where they round otherwise than the default ones.

Masked attention turns a mask logit within rounding of 0 into a decision; published outputs were made with MKL and
PyTorch's attention, so these are what a plain model uses. The predictor and the training engine ask for the fastest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from segcore.ops.attention import use_query_lanes
from segcore.ops.grid import use_row_sums
from segcore.ops.linear import ONEDNN_IS_FASTER, use_onednn


@contextmanager
def fastest() -> Iterator[None]:
    """Inside the block, `linear`, `in_fast_layout`, `maps` and `grid_attention` are what is fastest."""
    with use_onednn(ONEDNN_IS_FASTER), use_row_sums(True), use_query_lanes(True):
        yield
