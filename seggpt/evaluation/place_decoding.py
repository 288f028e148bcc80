"""From a painting by place to objects: Painter's reading of COCO (baaivision/Painter; SegGPT keeps it).

Shapes: N pixels, C colours (cells), M masks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from seggpt.data.places import BLOCK, CELLS, place_colours

NEAR = 19.0  # mean distance of the channels under which a pixel has a cell's colour
KEPT = 2000  # masks that are compared with each other
MOST = 100  # objects of a picture
SIGMA = 2.0  # of the decay by overlap


class Objects(NamedTuple):
    """masks (M, H, W) bool and scores (M,) in [0, 1], the best first."""

    masks: np.ndarray
    scores: np.ndarray


@torch.no_grad()
def read_places(painting: np.ndarray, device: str | torch.device = "cpu") -> Objects:
    """Objects of a painting (H, W, 3) uint8.

    Each cell's colour gives the mask of the pixels near it, the better the nearer they are; masks of one object
    under neighbouring colours are thinned out by `matrix_nms`.
    """
    pixels = torch.from_numpy(painting.reshape(-1, 3)).to(device).float()
    far = torch.full((CELLS * CELLS,), torch.inf, device=device)
    for cells, distance in _distances(pixels):
        near = distance < NEAR
        count = near.sum(1)
        mean = (distance * near).sum(1) / count.clamp_min(1)
        far[cells] = torch.where(count > 0, mean, torch.inf)
    best = torch.argsort(far, stable=True)[:KEPT]
    best = best[torch.isfinite(far[best])]
    if not len(best):
        return Objects(np.zeros((0, *painting.shape[:2]), bool), np.zeros(0, np.float32))
    masks = torch.cat([_masks(pixels, part) for part in best.split(64)])
    scores = 1 - far[best] / far[best].max().clamp_min(1)
    kept, scores = matrix_nms(masks, scores)
    shape = (len(kept), *painting.shape[:2])
    return Objects(masks[kept].reshape(shape).cpu().numpy(), scores.cpu().numpy())


def matrix_nms(masks: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Scores lowered by the overlap with better masks (SOLOv2, arXiv:2003.10152, eq. 5, the gaussian form).

    Args:
        masks: (M, N) bool. scores: (M,).

    Returns:
        numbers of the at most `MOST` best, and their new scores, best first.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    masks, scores = masks[order], scores[order]
    areas = masks.sum(1).float()
    parts = masks.split(256)  # as numbers two thousand masks would take gigabytes
    both = torch.cat([torch.cat([a.float() @ b.float().T for b in parts], 1) for a in parts])
    iou = (both / (areas[:, None] + areas - both)).triu(1)  # row: the better one
    hidden = iou.max(0).values  # how much the better one is itself hidden by a still better one
    decay = torch.exp(-SIGMA * (iou**2 - hidden[:, None] ** 2))
    decay = torch.where(torch.ones_like(iou, dtype=torch.bool).triu(1), decay, 1.0)
    scores = scores * decay.min(0).values
    best = torch.argsort(scores, descending=True, stable=True)[:MOST]
    return order[best], scores[best]


def _distances(pixels: Tensor):
    """(cells (20,), mean distance of the channels (20, N)) of each row of each block; pixels (N, 3)."""
    colours = torch.from_numpy(place_colours()).to(pixels.device).float()
    for cells in torch.arange(CELLS * CELLS, device=pixels.device).split(BLOCK):  # they share red and green
        shared = (pixels[:, :2] - colours[cells[0], :2]).abs().sum(1)
        if (shared < 3 * NEAR).any():
            yield cells, (shared + (pixels[:, 2] - colours[cells, 2:]).abs()) / 3


def _masks(pixels: Tensor, cells: Tensor) -> Tensor:
    colours = torch.from_numpy(place_colours()).to(pixels.device).float()[cells]
    return torch.stack([(pixels - colour).abs().sum(1) / 3 < NEAR for colour in colours])
