"""The masked-painting loss (SegGPT sec. 3.1; Painter, arXiv:2212.02499, sec. 3.2).

Shapes:  N canvases of (H, W) pixels, L tokens of p x p pixels each.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BLANK_SUM = 300.0   # a hundred white pixels' worth of colour


def pixel_mask(mask: Tensor, height: int, width: int, patch: int) -> Tensor:
    """Blow a token mask (N, L) up to pixels: (N, 1, height, width)."""
    grid = mask.reshape(-1, 1, height // patch, width // patch)
    return grid.repeat_interleave(patch, 2).repeat_interleave(patch, 3)


def inpainting_loss(painted: Tensor, targets: Tensor, mask: Tensor, valid: Tensor | None = None, *,
                    patch: int = 16, beta: float = 0.01, skip_blank: bool = True,
                    eps: float = 1e-2) -> Tensor:
    """Smooth L1 between painting and target over pixels that are hidden and valid.

    Args:
        painted, targets: (N, 3, H, W), normalised colours.
        mask: (N or 1, L), 1 = hidden.
        valid: (N, 3, H, W), 0 where a pixel or channel must not count; None counts all.
        skip_blank: drop canvases whose visible target is (nearly) black: nothing tells what to
            paint there. Painter trains so; SegGPT's released inference file does not.
        eps: added to the number of counted values; 0 gives NaN when there are none.

    Returns:
        A scalar, at least fp32.
    """
    hidden = pixel_mask(mask.to(targets.dtype), *targets.shape[-2:], patch)
    weight = hidden.expand_as(targets)
    if valid is not None:
        weight = weight * valid
    if skip_blank:
        mean, std = (targets.new_tensor(c).view(3, 1, 1) for c in (IMAGENET_MEAN, IMAGENET_STD))
        visible = ((targets * std + mean) * (1 - hidden)).float().sum((1, 2, 3))
        weight = weight * (visible >= BLANK_SUM).to(weight.dtype).view(-1, 1, 1, 1)
    # fp32: the sum over 1.2 million values passes what half precision can count
    error = F.smooth_l1_loss(painted.float(), targets.float(), reduction="none", beta=beta)
    weight = weight.float()
    return (error * weight).sum() / (weight.sum() + eps)
