"""Bipartite matching of queries to targets (Mask2Former, arXiv:2112.01527, sec. 3.3).

Shapes:  B images, D predictions (decoder layers), Q queries, M targets of an image (padded to the most
         of the batch), P points, K classes (without "no object"), h, w mask size, n pairs of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .points import TargetMasks, sample_logits


class Matches(NamedTuple):
    """The pairs of each layer, (D, n) int64 each: images in order, an image's by ascending target.

    `target` counts through the batch: an image's targets follow those of the images before it.
    """

    image: Tensor
    query: Tensor
    target: Tensor


@dataclass
class PendingCosts:
    """Costs (D, B, Q, M) on their way to the CPU, and the event after which they are there."""

    costs: Tensor
    counts: list[int]
    device: torch.device
    arrived: torch.cuda.Event | None


def pairwise_bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy of every query with every target: (B, Q, P), (B, M, P) -> (B, Q, M).

    BCE(x, t) = softplus(x) - x * t, so one product serves all pairs.
    """
    return (F.softplus(logits).sum(-1, keepdim=True) - logits @ targets.mT) / logits.shape[-1]


def pairwise_dice(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - (2 p.t + 1) / (sum p + sum t + 1) for every pair: (B, Q, P), (B, M, P) -> (B, Q, M)."""
    probs = logits.sigmoid()
    area = probs.sum(-1, keepdim=True) + targets.sum(-1)[:, None]
    return 1 - (2 * (probs @ targets.mT) + 1) / (area + 1)


class HungarianMatcher(nn.Module):
    """One-to-one assignment that minimises class, BCE and dice costs on random points.

    The points are drawn once per image and shared by all its masks and decoder layers. The work has two
    halves: `start` computes all costs on the device and sends them to the CPU in one transfer, `finish` waits
    for it and solves the assignments. Whatever is started in between keeps the device busy meanwhile.
    """

    def __init__(self, *, class_weight: float, mask_weight: float, dice_weight: float, num_points: int):
        super().__init__()
        self.class_weight, self.mask_weight, self.dice_weight = class_weight, mask_weight, dice_weight
        self.num_points = num_points

    @torch.no_grad()
    @torch.autocast("cuda", enabled=False)
    @torch.autocast("cpu", enabled=False)
    def start(
        self,
        class_logits: Sequence[Tensor],
        mask_logits: Sequence[Tensor],
        labels: Sequence[Tensor],
        targets: TargetMasks,
    ) -> PendingCosts:
        """Costs of all layers and images.

        Args:
            class_logits: D times (B, Q, K + 1).
            mask_logits: D times (B, Q, h, w).
            labels: (number of targets,) int64 of each image.
            targets: the masks of the same targets.
        """
        device = mask_logits[0].device
        # fp32: the BCE cost summed over 12,544 points can pass fp16's 65,504
        points = torch.stack([torch.rand(self.num_points, 2, device=device) for _ in labels])
        wanted = nn.utils.rnn.pad_sequence(
            [targets.at_shared_points(image, at) for image, at in enumerate(points)], batch_first=True
        )
        classes = nn.utils.rnn.pad_sequence(list(labels), batch_first=True)
        costs = []
        for class_layer, mask_layer in zip(class_logits, mask_logits, strict=True):
            probs = class_layer.float().softmax(-1)
            class_cost = -probs.gather(2, classes[:, None].expand(-1, probs.shape[1], -1))
            # One layer at a time: the samples of one layer alone are 15 MB for two images.
            logits = sample_logits(mask_layer.float(), points)
            costs.append(
                self.class_weight * class_cost
                + self.mask_weight * pairwise_bce(logits, wanted)
                + self.dice_weight * pairwise_dice(logits, wanted)
            )
        on_cpu = torch.stack(costs).to("cpu", non_blocking=True)
        arrived = None
        if device.type == "cuda":
            arrived = torch.cuda.Event()
            arrived.record()
        return PendingCosts(on_cpu, targets.counts, device, arrived)

    def finish(self, pending: PendingCosts) -> Matches:
        """Wait for the costs and solve the assignments; the matches are back on the device.

        Raises:
            FloatingPointError: if a cost is NaN or infinite.
        """
        if pending.arrived is not None:
            pending.arrived.synchronize()
        if not torch.isfinite(pending.costs).all():
            raise FloatingPointError(
                "the matching cost is not finite: the model's class or mask logits became NaN or infinite"
            )
        rows = [_assign(costs, pending.counts) for costs in pending.costs.numpy()]
        matches = torch.tensor(rows, dtype=torch.int64).reshape(len(rows), -1, 3).permute(2, 0, 1).contiguous()
        if pending.device.type == "cuda":
            matches = matches.pin_memory()
        return Matches(*matches.to(pending.device, non_blocking=True))


def _assign(costs, counts: list[int]) -> list[tuple[int, int, int]]:
    """(image, query, target) of each pair in one layer; costs is a (B, Q, M) array."""
    from scipy.optimize import linear_sum_assignment  # 35 MB that prediction has no use for

    pairs, first = [], 0
    for image, count in enumerate(counts):
        queries, targets = linear_sum_assignment(costs[image, :, :count])
        found = sorted(zip(targets.tolist(), queries.tolist()))
        pairs += [(image, query, first + target) for target, query in found]
        first += count
    return pairs
