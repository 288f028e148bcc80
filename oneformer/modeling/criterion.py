"""Training losses (OneFormer, arXiv:2211.06220, sec. 3.4 and 4.2).

Shapes:  B images, D predictions (decoder layers, the last one first), Q queries,
         K classes (without "no object"), M targets of an image, n matched pairs of a batch
         (the same number in every layer), P points, H, W the stride-4 size of masks, C channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from segcore.masks import LayeredMasks

from .matcher import HungarianMatcher, Matches, PendingCosts
from .points import TargetMasks, sample_logits, uncertain_points
from .transformer_decoder import DecoderOutput

# Random points looked at together: as many layers at once as stay below it, at least one.
_POINTS_AT_ONCE = 2**21


@dataclass
class Target:
    """Labels (M,) int64 and masks (M, height, width) of one image, of its own size."""

    labels: Tensor
    masks: LayeredMasks


@dataclass
class PendingMatch:
    """A matching that was started: its costs, the labels (sum of M,) and the masks of the batch's targets."""

    costs: PendingCosts
    labels: Tensor
    masks: TargetMasks


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

    def match(self, outputs: DecoderOutput, targets: list[Target], canvas: tuple[int, int]) -> PendingMatch:
        """Start the matching; `forward` finishes it. See `HungarianMatcher` for why in two halves.

        Args:
            outputs: of the decoder.
            targets: one per image.
            canvas: (height, width) of the padded batch.
        """
        masks = TargetMasks([t.masks for t in targets], canvas)
        labels = [t.labels for t in targets]
        costs = self.matcher.start(
            [outputs.class_logits, *(c for c, _ in outputs.auxiliary)],
            [outputs.mask_logits, *(m for _, m in outputs.auxiliary)],
            labels,
            masks,
        )
        return PendingMatch(costs, torch.cat(labels), masks)

    def forward(
        self, outputs: DecoderOutput, pending: PendingMatch, texts: Tensor | None
    ) -> dict[str, Tensor]:
        """Weighted losses.

        Args:
            outputs: of the decoder, with `auxiliary` when deep supervision is wanted.
            pending: of `match`.
            texts: (B, Q, C) text vectors; None leaves the contrastive loss out.

        Returns:
            "loss_ce", "loss_mask", "loss_dice" of the last layer, the same with "_{i}" of auxiliary
            layer i, and "loss_contrastive"; their sum is the training loss.

        Raises:
            FloatingPointError: if the predictions are not finite.
        """
        matches = self.matcher.finish(pending.costs)
        cross_entropy = self._class_losses(outputs, matches, pending.labels)
        bce, dice = self._mask_losses(outputs, matches, pending.masks)
        num_masks = self._num_masks(len(pending.labels), bce.device)
        losses = {}
        for layer in range(len(bce)):
            suffix = f"_{layer - 1}" if layer else ""
            losses["loss_ce" + suffix] = self.class_weight * cross_entropy[layer]
            losses["loss_mask" + suffix] = self.mask_weight * bce[layer] / num_masks
            losses["loss_dice" + suffix] = self.dice_weight * dice[layer] / num_masks
        if texts is not None:
            losses["loss_contrastive"] = self.contrastive_weight * contrastive_loss(
                outputs.queries, texts, self.logit_scale
            )
        return losses

    def _num_masks(self, count: int, device: torch.device) -> Tensor:
        """Mean number of targets per rank, at least 1: the unit of the mask losses."""
        mean = torch.full((), float(count), device=device)
        if _distributed():
            dist.all_reduce(mean)
            mean /= dist.get_world_size()
        return mean.clamp(min=1)

    def _class_losses(self, outputs: DecoderOutput, matches: Matches, labels: Tensor) -> Tensor:
        """(D,) weighted mean cross-entropy over all queries of the batch."""
        logits = torch.stack([outputs.class_logits, *(c for c, _ in outputs.auxiliary)]).float()
        no_object = logits.shape[-1] - 1
        wanted = torch.full(logits.shape[:3], no_object, dtype=torch.int64, device=logits.device)
        layer = torch.arange(len(logits), device=logits.device)[:, None]
        wanted[layer, matches.image, matches.query] = labels[matches.target]
        each = F.cross_entropy(
            logits.flatten(0, 2), wanted.flatten(), self.empty_weight, reduction="none"
        ).view(len(logits), -1)
        return each.sum(1) / self.empty_weight[wanted].flatten(1).sum(1)

    def _mask_losses(
        self, outputs: DecoderOutput, matches: Matches, masks: TargetMasks
    ) -> tuple[Tensor, Tensor]:
        """(D,) BCE and (D,) dice of the matched masks on uncertain points, each summed over the masks."""
        rows = self._matched_logits(outputs, matches, masks.counts)
        if matches.query.numel() == 0:   # keeps the graph whole: every parameter still gets a (zero) gradient
            zero = sum(r.sum() for r in rows) + rows[0].new_zeros(len(matches.query))
            return zero, zero
        candidates = int(self.num_points * self.oversample_ratio)
        layers_at_once = max(1, _POINTS_AT_ONCE // (matches.query.shape[1] * candidates))
        parts = [
            self._point_losses(
                torch.cat([r[layers] for r in rows], dim=1), matches.target[layers], masks, candidates
            )
            for layers in (
                slice(first, first + layers_at_once)
                for first in range(0, len(matches.query), layers_at_once)
            )
        ]
        bce, dice = zip(*parts)
        return torch.cat(bce), torch.cat(dice)

    def _matched_logits(self, outputs: DecoderOutput, matches: Matches, counts: list[int]) -> list[Tensor]:
        """Mask logits of the matched queries, with gradient: (D, pairs of the image, H, W) of each image.

        The others have no mask loss. One product for all layers of an image: its gradient reaches the
        per-pixel embeddings once and not once per layer.
        """
        embeddings = torch.stack(outputs.mask_embeddings)
        pairs = [min(count, embeddings.shape[2]) for count in counts]
        layer = torch.arange(len(embeddings), device=embeddings.device)[:, None]
        first, rows = 0, []
        for image, (count, features) in enumerate(zip(pairs, outputs.mask_features, strict=True)):
            query = matches.query[:, first : first + count]
            first += count
            chosen = embeddings[layer, image, query]
            rows.append(torch.einsum("dnc,chw->dnhw", chosen, features).float())
        return rows

    def _point_losses(
        self, logits: Tensor, target: Tensor, masks: TargetMasks, candidates: int
    ) -> tuple[Tensor, Tensor]:
        """BCE and dice of some layers, (D,) each; logits (D, n, H, W), target (D, n)."""
        count = int(self.num_points * self.importance_sample_ratio)
        shape, device = target.shape, logits.device
        drawn = [
            (
                torch.rand(shape[1], candidates, 2, device=device),
                torch.rand(shape[1], self.num_points - count, 2, device=device),
            )
            for _ in range(shape[0])
        ]
        logits = logits.flatten(0, 1)
        points = uncertain_points(logits.detach(), *(torch.cat(d) for d in zip(*drawn)), count)
        wanted = masks.at_points(target.flatten(), points)
        sampled = sample_logits(logits[:, None], points)[:, 0]
        bce = F.binary_cross_entropy_with_logits(sampled, wanted, reduction="none").mean(1)
        probs = sampled.sigmoid()
        dice = 1 - (2 * (probs * wanted).sum(1) + 1) / (probs.sum(1) + wanted.sum(1) + 1)
        return bce.view(shape).sum(1), dice.view(shape).sum(1)
