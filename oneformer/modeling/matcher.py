"""Bipartite matching of queries to targets (Mask2Former, arXiv:2112.01527, sec. 3.3).

Shapes:  D predictions (decoder layers), Q queries, M targets of one image, P points,
         K classes (without "no object"), H, W mask size.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.projects.point_rend.point_features import point_sample
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn


def pairwise_bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy of every query with every target: (D, Q, P), (M, P) -> (D, Q, M).

    BCE(x, t) = softplus(x) - x * t, so one product serves all pairs.
    """
    return (F.softplus(logits).sum(-1, keepdim=True) - logits @ targets.T) / logits.shape[-1]


def pairwise_dice(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - (2 p.t + 1) / (sum p + sum t + 1) for every pair: (D, Q, P), (M, P) -> (D, Q, M)."""
    probs = logits.sigmoid()
    return 1 - (2 * (probs @ targets.T) + 1) / (probs.sum(-1, keepdim=True) + targets.sum(-1) + 1)


class HungarianMatcher(nn.Module):
    """One-to-one assignment that minimises class, BCE and dice costs on random points.

    The points are drawn once per image and shared by all its masks and decoder layers.
    """

    def __init__(self, *, class_weight: float, mask_weight: float, dice_weight: float, num_points: int):
        super().__init__()
        self.class_weight, self.mask_weight, self.dice_weight = class_weight, mask_weight, dice_weight
        self.num_points = num_points

    @torch.no_grad()
    def forward(self, class_logits: Tensor, mask_logits: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
        """Match one image in all decoder layers.

        Args:
            class_logits: (D, Q, K + 1).
            mask_logits: (D, Q, h, w).
            labels: (M,) int64.
            masks: (M, H, W) float or bool; any size, over the same canvas as the logits.

        Returns:
            (D, 2, min(Q, M)) int64 on the CPU: matched query and target of each pair, by ascending target.

        Raises:
            FloatingPointError: if a cost is NaN or infinite.
        """
        if len(labels) == 0:
            return torch.zeros(len(class_logits), 2, 0, dtype=torch.int64)
        cost = self._cost(class_logits, mask_logits, labels, masks).cpu()
        if not torch.isfinite(cost).all():
            raise FloatingPointError(
                "the matching cost is not finite: the model's class or mask logits became NaN or infinite"
            )
        pairs = [torch.from_numpy(np.stack(linear_sum_assignment(c))) for c in cost.numpy()]
        return torch.stack([p[:, p[1].argsort()] for p in pairs])

    @torch.autocast("cuda", enabled=False)
    @torch.autocast("cpu", enabled=False)
    def _cost(self, class_logits: Tensor, mask_logits: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
        # fp32: the BCE cost summed over 12,544 points can pass fp16's 65,504
        points = torch.rand(1, self.num_points, 2, device=mask_logits.device)
        logits = point_sample(mask_logits.float().flatten(0, 1)[None], points, align_corners=False)
        logits = logits[0].unflatten(0, mask_logits.shape[:2])
        targets = point_sample(masks[None].float(), points, align_corners=False)[0]
        class_cost = -class_logits.float().softmax(-1)[..., labels]
        return (
            self.class_weight * class_cost
            + self.mask_weight * pairwise_bce(logits, targets)
            + self.dice_weight * pairwise_dice(logits, targets)
        )
