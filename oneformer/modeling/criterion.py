"""Training losses (OneFormer, arXiv:2211.06220, sec. 3.4 and 4.2).

Shapes:  B images, D predictions (decoder layers, the last one first), Q queries,
         K classes (without "no object"), M targets of an image, P points,
         H, W size of the padded batch, C channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from detectron2.projects.point_rend.point_features import (
    get_uncertain_point_coords_with_randomness,
    point_sample,
)
from torch import Tensor, nn

from .matcher import HungarianMatcher
from .transformer_decoder import DecoderOutput


@dataclass
class Target:
    """Labels (M,) int64 and masks (M, H, W) bool of one image, over the padded canvas."""

    labels: Tensor
    masks: Tensor


class _GatherFromRanks(torch.autograd.Function):
    """Concatenate a tensor of equal shape over the ranks, with gradient."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def contrastive_loss(queries: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """Query-text contrastive loss (eq. 1-3 of the paper), one vector of all queries per image.

    Args:
        queries, texts: (B, Q, C); every rank must hold the same B.
        logit_scale: () logarithm of the inverse temperature, used up to 100.

    Returns:
        () loss. With a single image over all ranks there is nothing to contrast: it is 0.
    """
    queries = F.normalize(queries.float().flatten(1), dim=1)
    texts = F.normalize(texts.float().flatten(1), dim=1)
    all_queries, all_texts, first = queries, texts, 0
    if _distributed():
        all_queries, all_texts = _GatherFromRanks.apply(queries), _GatherFromRanks.apply(texts)
        first = len(queries) * dist.get_rank()
    scale = logit_scale.exp().clamp(max=100)
    own = torch.arange(first, first + len(queries), device=queries.device)
    return F.cross_entropy(scale * queries @ all_texts.T, own) + F.cross_entropy(
        scale * texts @ all_queries.T, own
    )


class Criterion(nn.Module):
    """Classification, point-sampled mask losses with deep supervision, and the contrastive loss."""

    def __init__(
        self,
        *,
        num_classes: int,
        matcher: HungarianMatcher,
        class_weight: float,
        mask_weight: float,
        dice_weight: float,
        contrastive_weight: float,
        contrastive_temperature: float,
        no_object_weight: float,
        num_points: int,
        oversample_ratio: float,
        importance_sample_ratio: float,
    ):
        super().__init__()
        self.matcher = matcher
        self.class_weight, self.mask_weight, self.dice_weight = class_weight, mask_weight, dice_weight
        self.contrastive_weight = contrastive_weight
        self.num_points = num_points
        self.oversample_ratio, self.importance_sample_ratio = oversample_ratio, importance_sample_ratio
        empty_weight = torch.ones(num_classes + 1)
        empty_weight[-1] = no_object_weight
        self.register_buffer("empty_weight", empty_weight)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / contrastive_temperature)))

    def forward(
        self, outputs: DecoderOutput, targets: list[Target], texts: Tensor | None
    ) -> dict[str, Tensor]:
        """Weighted losses.

        Args:
            outputs: of the decoder, with `auxiliary` when deep supervision is wanted.
            targets: one per image.
            texts: (B, Q, C) text vectors; None leaves the contrastive loss out.

        Returns:
            "loss_ce", "loss_mask", "loss_dice" of the last layer, the same with "_{i}" of auxiliary
            layer i, and "loss_contrastive"; their sum is the training loss.

        Raises:
            FloatingPointError: if the predictions are not finite.
        """
        class_logits = torch.stack([outputs.class_logits, *(c for c, _ in outputs.auxiliary)])
        mask_logits = [outputs.mask_logits, *(m for _, m in outputs.auxiliary)]
        matches = self.match(class_logits, mask_logits, targets)
        num_masks = self._num_masks(targets, class_logits.device)
        losses = {}
        for layer, masks in enumerate(mask_logits):
            indices = [match[layer].to(masks.device, non_blocking=True) for match in matches]
            suffix = f"_{layer - 1}" if layer else ""
            cross_entropy = self._class_loss(class_logits[layer], indices, targets)
            losses["loss_ce" + suffix] = self.class_weight * cross_entropy
            bce, dice = self._mask_losses(masks, indices, targets, num_masks)
            losses["loss_mask" + suffix] = self.mask_weight * bce
            losses["loss_dice" + suffix] = self.dice_weight * dice
        if texts is not None:
            losses["loss_contrastive"] = self.contrastive_weight * contrastive_loss(
                outputs.queries, texts, self.logit_scale
            )
        return losses

    def match(self, class_logits: Tensor, mask_logits: list[Tensor], targets: list[Target]) -> list[Tensor]:
        """Per image (D, 2, pairs): matched query and target in each layer.

        class_logits is (D, B, Q, K + 1).
        """
        return [
            self.matcher(
                class_logits[:, b], torch.stack([m[b].detach() for m in mask_logits]), t.labels, t.masks
            )
            for b, t in enumerate(targets)
        ]

    def _num_masks(self, targets: list[Target], device: torch.device) -> Tensor:
        """Mean number of targets per rank, at least 1: the unit of the mask losses."""
        count = torch.tensor(float(sum(len(t.labels) for t in targets)), device=device)
        if _distributed():
            dist.all_reduce(count)
            count /= dist.get_world_size()
        return count.clamp(min=1)

    def _class_loss(self, logits: Tensor, indices: list[Tensor], targets: list[Target]) -> Tensor:
        no_object = logits.shape[-1] - 1
        wanted = torch.full(logits.shape[:2], no_object, dtype=torch.int64, device=logits.device)
        for b, ((query, target), t) in enumerate(zip(indices, targets, strict=True)):
            wanted[b, query] = t.labels[target]
        return F.cross_entropy(logits.float().transpose(1, 2), wanted, self.empty_weight)

    def _mask_losses(
        self, mask_logits: Tensor, indices: list[Tensor], targets: list[Target], num_masks: Tensor
    ) -> tuple[Tensor, Tensor]:
        """BCE and dice of the matched masks on uncertain points, each summed over masks / num_masks."""
        logits = torch.cat([m[query] for m, (query, _) in zip(mask_logits, indices, strict=True)])
        masks = torch.cat([t.masks[target] for t, (_, target) in zip(targets, indices, strict=True)])
        logits, masks = logits[:, None].float(), masks[:, None]
        if len(logits) == 0:   # keeps the graph whole: every parameter still gets a (zero) gradient
            zero = mask_logits.sum() * 0
            return zero, zero
        with torch.no_grad():
            points = get_uncertain_point_coords_with_randomness(
                logits,
                lambda x: -x.abs(),
                self.num_points,
                self.oversample_ratio,
                self.importance_sample_ratio,
            )
            wanted = point_sample(masks.float(), points, align_corners=False)[:, 0]
        sampled = point_sample(logits, points, align_corners=False)[:, 0]
        bce = F.binary_cross_entropy_with_logits(sampled, wanted, reduction="none").mean(1).sum()
        probs = sampled.sigmoid()
        dice = 1 - (2 * (probs * wanted).sum(1) + 1) / (probs.sum(1) + wanted.sum(1) + 1)
        return bce / num_masks, dice.sum() / num_masks
