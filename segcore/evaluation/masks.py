"""Masks as RLE, COCO's compact form."""

from __future__ import annotations

import pycocotools.mask as mask_api
import torch

_CHUNK = 16  # masks turned into RLE at a time, so that no second copy of all of them exists


def encode_masks(masks: torch.Tensor) -> list[dict]:
    """RLE of each of (N, H, W) masks (bool, or cut at 0.5), with "counts" as text."""
    rles = []
    for chunk in masks.split(_CHUNK):
        binary = chunk if chunk.dtype == torch.bool else chunk > 0.5
        # pycocotools wants Fortran order (H, W, N), which is (N, W, H) in C order: transpose where the masks
        # live.
        columns = binary.transpose(1, 2).contiguous().to(torch.uint8).cpu().numpy()
        rles += mask_api.encode(columns.transpose(2, 1, 0))
    return [{"size": rle["size"], "counts": rle["counts"].decode("ascii")} for rle in rles]
