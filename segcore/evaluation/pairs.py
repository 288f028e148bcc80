"""Counting how often pairs of labels fall on the same pixel: the one primitive under PQ, mIoU and confusion
tables."""

from __future__ import annotations

import numpy as np
import torch

from segcore.data.images import shared_tensor
from segcore.ops.backend import choose_backend


def pair_counts(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """On how many pixels of two label maps each pair of labels falls.

    Segmentation maps change every few dozen pixels: both forms below look at the ends of runs alone, and so shrink
    the work by that factor. On pure noise they degrade to one run per pixel and stay correct.

    Args:
        first, second: label maps of one shape, any integer dtype, in raster order.

    Returns:
        Three (R,) int64 arrays: label in `first`, label in `second`, number of pixels; each pair once.
    """
    first, second = np.ascontiguousarray(first).reshape(-1), np.ascontiguousarray(second).reshape(-1)
    if first.size == 0:
        return (np.zeros(0, np.int64),) * 3
    if choose_backend("cpu") != "cpu":
        return _merge(*_runs(first, second))
    word = _WORD[max(first.itemsize, second.itemsize)]
    pairs = torch.ops.segcore_native.count_pairs(_as_words(first, word), _as_words(second, word)).numpy()
    return _as_labels(pairs[0], word, first.dtype), _as_labels(pairs[1], word, second.dtype), pairs[2]


# The integers that the compiled operator takes, by their bytes.
_WORD = {1: np.dtype(np.uint8), 2: np.dtype(np.int16), 4: np.dtype(np.int32), 8: np.dtype(np.int64)}


def _as_words(labels: np.ndarray, word: np.dtype) -> torch.Tensor:
    """The map as a tensor of words, read as such where it has their width: equal labels stay equal, signs may not."""
    if labels.dtype != word:
        same = labels.itemsize == word.itemsize and labels.dtype.isnative
        labels = labels.view(word) if same else labels.astype(word)
    return shared_tensor(labels)


def _as_labels(words: np.ndarray, word: np.dtype, dtype: np.dtype) -> np.ndarray:
    """int64 words as the int64 labels, of a map of `dtype`, that they were read from."""
    return words if dtype == word else words.astype(dtype).astype(np.int64)


def _runs(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs of pixels over which both stay the same: the two labels and the length."""
    is_start = np.empty(first.size, dtype=bool)
    is_start[0] = True
    np.not_equal(first[1:], first[:-1], out=is_start[1:])
    is_start[1:] |= second[1:] != second[:-1]
    starts = np.flatnonzero(is_start)
    lengths = np.diff(starts, append=first.size)
    return first[starts].astype(np.int64), second[starts].astype(np.int64), lengths


def _merge(first: np.ndarray, second: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each pair of labels once, with the sum of its lengths."""
    known_first, known_second = np.unique(first), np.unique(second)
    shape = (known_first.size, known_second.size)
    rows, columns = np.searchsorted(known_first, first), np.searchsorted(known_second, second)
    table = count_table(rows, columns, lengths, shape)
    rows, columns = np.nonzero(table)
    return known_first[rows], known_second[columns], table[rows, columns]


def label_runs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The runs of one non-empty label map in raster order: (R,) int64 labels and (R,) lengths."""
    flat = labels.reshape(-1)
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    return flat[starts].astype(np.int64), np.diff(starts, append=flat.size)


def count_table(rows: np.ndarray, columns: np.ndarray, lengths: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Sum `lengths` into an int64 table of `shape` at (rows, columns); all indices must be inside."""
    # bincount's weights are doubles: exact, since a count of pixels is far below 2**53.
    flat = np.bincount(rows * shape[1] + columns, weights=lengths, minlength=shape[0] * shape[1])
    return flat.astype(np.int64).reshape(shape)


def positions(labels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Where each label stands in `known`, counted from 1; 0 when it is not there.

    Args:
        labels: (R,) int64.
        known: (K,) int64, distinct, in any order.
    """
    if known.size == 0:
        return np.zeros(labels.shape, dtype=np.int64)
    # Bisection, not a look-up table over the id range: COCO's ids are RGB colours, and clearing up to 2**24
    # entries per image costs more than everything else together.
    order = np.argsort(known)
    place = np.searchsorted(known, labels, sorter=order)
    place = order[np.minimum(place, known.size - 1)]
    return np.where(known[place] == labels, place + 1, 0)
