"""Panoptic ids to a compact index map, in one pass, and back to masks.

An index map numbers the segments of one image: 0 is void, i + 1 is the i-th
entry of its `segments_info`.  It fits a byte for up to 255 segments, so that
augmenting it costs a third of augmenting the RGB PNG.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import torch

from segcore.ops.backend import choose_backend

from .images import shared_tensor

_MAX_ID = 1 << 24
_TABLES = threading.local()


def index_map(ids: np.ndarray, segment_ids: Sequence[int], where: str) -> np.ndarray:
    """Replace each segment id by its position in `segment_ids` plus one.

    Args:
        ids: (H, W) int32 panoptic ids in [0, 2**24), 0 = void.
        segment_ids: the ids that the annotation lists; some may have no pixel.
        where: the file's name, for errors.

    Returns:
        (H, W) uint8 for up to 255 segments, else uint16.

    Raises:
        ValueError: a pixel has an id that is not listed; an id is listed twice,
            is 0 (void) or does not fit 24 bits; more than 65535 segments.
    """
    _check_ids(segment_ids, where)
    listed = np.array(segment_ids, np.int64)
    if choose_backend("cpu") == "cpu":
        numbers, unknown = torch.ops.segcore_native.number_labels(shared_tensor(ids), torch.from_numpy(listed))
        indices = numbers.numpy()
        indices = indices.view(np.uint8 if indices.itemsize == 1 else np.uint16)
    else:
        indices = _look_up(ids, listed)
        unknown = np.count_nonzero(ids) - np.count_nonzero(indices)
    if unknown:
        unlisted = np.unique(ids[(indices == 0) & (ids != 0)])
        raise ValueError(
            f"{where} has pixels of {len(unlisted)} segment ids that its annotation does not list "
            f"({', '.join(map(str, unlisted[:5]))}{', ...' if len(unlisted) > 5 else ''}); add them to "
            f"segments_info, or set these pixels to 0 (void)"
        )
    return indices


def _look_up(ids: np.ndarray, listed: np.ndarray) -> np.ndarray:
    """Position in `listed` plus one, 0 elsewhere, by a table of all ids."""
    table = _table(np.uint8 if len(listed) <= 255 else np.uint16)
    table[listed] = np.arange(1, len(listed) + 1)
    # Not table[ids]: that would first copy the ids into eight bytes each.
    indices = np.take(table, ids, mode="clip")
    table[listed] = 0
    return indices


def _table(dtype: type) -> np.ndarray:
    """Zeros for every possible id, one table per thread and dtype; whoever writes into it wipes it again.

    Few cache lines of it are touched for an image, but making it anew costs as much as reading a small one.
    """
    tables = _TABLES.__dict__
    if dtype.__name__ not in tables:
        tables[dtype.__name__] = np.zeros(_MAX_ID, dtype)
    return tables[dtype.__name__]


def _check_ids(segment_ids: Sequence[int], where: str) -> None:
    if len(set(segment_ids)) != len(segment_ids):
        raise ValueError(f"the annotation of {where} lists a segment id twice: {sorted(segment_ids)}")
    wrong = [i for i in segment_ids if not 0 < i < _MAX_ID]
    if wrong:
        raise ValueError(f"the annotation of {where} has segment id {wrong[0]}; ids go from 1 to {_MAX_ID - 1}")
    if len(segment_ids) > np.iinfo(np.uint16).max:
        raise ValueError(f"{where} has {len(segment_ids)} segments; more than 65535 are not supported")


def pack(indices: np.ndarray) -> np.ndarray:
    """An index map as something that an image library can resize: uint8, (H, W) or (H, W, 3)."""
    if indices.dtype == np.uint8:
        return indices
    low, high = indices & 255, indices >> 8
    return np.stack([low, high, np.zeros_like(low)], axis=-1).astype(np.uint8)


def unpack(packed: np.ndarray) -> np.ndarray:
    """The inverse of `pack`."""
    if packed.ndim == 2:
        return packed
    return packed[..., 0] | packed[..., 1].astype(np.uint16) << 8
