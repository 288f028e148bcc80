"""One set of queries from those of several views of an image.

The same query index may mean another object in another view, so queries are
matched first: one to one, by the agreement of their masks and classes.

Shapes:  Q queries, G groups, K classes (without "no object"), H, W size of the result.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_GRID = 64           # masks are compared at this longest side, pixels
_LEAST_OVERLAP = 0.5  # soft dice below which two queries are two objects
_LEAST_SCORE = 0.05  # class probability below which an unmatched query of a later view is left out
_EPSILON = 1e-6


class QueryGroups:
    """Queries of all views seen so far, those of one object in one group.

    A group's class probabilities are the mean over all views; a view without the object counts as "no object"
    with `absence` of its weight.  A group's mask is the mean probability over the views that have it.

    Args:
        class_logits: (Q, K + 1) of the first view, the image as a plain model would see it.
        mask_logits: (Q, H, W) of the first view.
        absence: 0..1.
    """

    def __init__(self, class_logits: Tensor, mask_logits: Tensor, absence: float = 0.5) -> None:
        self.absence = absence
        self.views = 1
        self.class_sum = class_logits.softmax(-1)
        self.mask_sum = mask_logits.sigmoid()
        self.count = torch.ones(len(class_logits), device=class_logits.device)

    def add(self, class_logits: Tensor, mask_logits: Tensor) -> None:
        """Take in another view, of the same shapes, turned back to the first one's coordinates."""
        probs, masks = class_logits.softmax(-1), mask_logits.sigmoid()
        group, query = self._match(probs, masks)
        self.class_sum[group] += probs[query]
        self.mask_sum[group] += masks[query]
        self.count[group] += 1
        alone = torch.ones(len(probs), dtype=torch.bool, device=probs.device)
        alone[query] = False
        alone &= probs[:, :-1].max(1).values > _LEAST_SCORE
        self.class_sum = torch.cat((self.class_sum, probs[alone]))
        self.mask_sum = torch.cat((self.mask_sum, masks[alone]))
        self.count = torch.cat((self.count, self.count.new_ones(int(alone.sum()))))
        self.views += 1

    def merged(self) -> tuple[Tensor, Tensor]:
        """Class logits (G, K + 1) and mask logits (G, H, W): their softmax and sigmoid are the means."""
        missing = self.absence * (self.views - self.count)
        probs = self.class_sum.clone()
        probs[:, -1] += missing
        probs /= (self.count + missing)[:, None]
        masks = (self.mask_sum / self.count[:, None, None]).clamp(_EPSILON, 1 - _EPSILON)
        return probs.clamp(min=1e-12).log(), masks.logit()

    def _match(self, probs: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Groups and queries that are one object, as two equally long index vectors."""
        from scipy.optimize import linear_sum_assignment  # 35 MB that prediction has no use for

        overlap = soft_dice(_small(self.mask_sum / self.count[:, None, None]), _small(masks))
        classes = F.normalize(self.class_sum[:, :-1], dim=1) @ F.normalize(probs[:, :-1], dim=1).T
        affinity = (overlap * classes).cpu()
        group, query = map(torch.as_tensor, linear_sum_assignment(affinity.numpy(), maximize=True))
        good = overlap.cpu()[group, query] >= _LEAST_OVERLAP
        same = (self.class_sum[:, :-1].argmax(1).cpu()[group]) == (probs[:, :-1].argmax(1).cpu()[query])
        kept = good & same
        return group[kept].to(probs.device), query[kept].to(probs.device)


def soft_dice(a: Tensor, b: Tensor) -> Tensor:
    """2 a.b / (|a|^2 + |b|^2) of every pair of masks: (G, h, w), (Q, h, w) -> (G, Q), 0..1."""
    a, b = a.flatten(1), b.flatten(1)
    total = a.square().sum(1)[:, None] + b.square().sum(1)[None]
    return 2 * (a @ b.T) / total.clamp(min=_EPSILON)


def _small(masks: Tensor) -> Tensor:
    """Masks averaged down to a grid that is cheap to compare."""
    scale = max(1.0, max(masks.shape[-2:]) / _GRID)
    size = [max(1, round(side / scale)) for side in masks.shape[-2:]]
    return F.interpolate(masks[None], size=size, mode="area")[0]
