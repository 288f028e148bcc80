"""From queries to the three kinds of result: pure functions of logits and data-set facts
(Mask2Former, arXiv:2112.01527, sec. 3.1 and 4; MaskFormer, arXiv:2107.06278, sec. 3.4).

Shapes:  Q queries, K classes (without "no object"), h, w size of the mask logits,
         H, W size of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor

SEMANTIC_QUERY_CHUNK = 32   # masks at full size held at once by `semantic_segmentation`


@dataclass(frozen=True)
class MaskResizer:
    """Mask logits of the padded input -> the size of the result.

    As the released models are evaluated: bilinear to the padded input size, crop to the image,
    bilinear to the output size. All sizes are (height, width) in pixels.
    """

    padded_size: tuple[int, int]
    image_size: tuple[int, int]
    output_size: tuple[int, int]

    def __call__(self, masks: Tensor) -> Tensor:
        """(n, h, w) logits -> (n, *output_size)."""
        if len(masks) == 0:
            return masks.new_zeros((0, *self.output_size))
        x = F.interpolate(masks[None], size=self.padded_size, mode="bilinear", align_corners=False)
        x = x[:, :, : self.image_size[0], : self.image_size[1]]
        return F.interpolate(x, size=self.output_size, mode="bilinear", align_corners=False)[0]


Resize = Callable[[Tensor], Tensor]


def semantic_segmentation(class_logits: Tensor, mask_logits: Tensor, resize: Resize) -> Tensor:
    """Class scores of every pixel: sum over queries of p(class) * p(mask).

    Args:
        class_logits: (Q, K + 1).
        mask_logits: (Q, h, w).
        resize: (n, h, w) logits -> (n, H, W).

    Returns:
        (K, H, W) float32, not normalised.
    """
    probs = class_logits.softmax(-1)[:, :-1]
    total = None
    for start in range(0, len(probs), SEMANTIC_QUERY_CHUNK):
        chunk = slice(start, start + SEMANTIC_QUERY_CHUNK)
        masks = resize(mask_logits[chunk]).sigmoid_()
        if total is None:
            total = masks.new_zeros(probs.shape[1], masks.shape[1] * masks.shape[2])
            size = masks.shape[1:]
        total.addmm_(probs[chunk].T, masks.flatten(1))
    return total.unflatten(1, size)


def panoptic_segmentation(
    class_logits: Tensor,
    mask_logits: Tensor,
    resize: Resize,
    *,
    thing_classes: Collection[int],
    object_threshold: float,
    overlap_threshold: float,
) -> tuple[Tensor, list[dict]]:
    """Non-overlapping segments: each pixel goes to the query with the highest score * p(mask).

    Args:
        class_logits: (Q, K + 1).
        mask_logits: (Q, h, w).
        resize: (n, h, w) logits -> (n, H, W).
        thing_classes: class indices that are things; segments of any other class are merged.
        object_threshold: a query counts if its class score is above this.
        overlap_threshold: a query is dropped if it won less than this part of its mask's area.

    Returns:
        (H, W) int32 of segment ids, 0 where there is none, and for each segment its
        "id" (from 1), "isthing" and "category_id" (class index).
    """
    scores, labels = class_logits.softmax(-1).max(-1)
    keep = ((labels != class_logits.shape[-1] - 1) & (scores > object_threshold)).nonzero()[:, 0]
    probs = resize(mask_logits[keep]).sigmoid_()
    if len(keep) == 0:
        return torch.zeros(probs.shape[1:], dtype=torch.int32, device=probs.device), []
    covered = probs >= 0.5
    winner = (probs * scores[keep, None, None]).argmax(0)
    inside = covered.gather(0, winner[None])[0]
    won = winner.flatten().bincount(minlength=len(keep))
    visible = winner[inside].bincount(minlength=len(keep))
    areas = torch.stack((won, covered.flatten(1).sum(1), visible)).tolist()
    segment_of, segments = _merge_stuff(labels[keep].tolist(), *areas, set(thing_classes), overlap_threshold)
    ids = torch.tensor(segment_of, dtype=torch.int32, device=winner.device)[winner]
    return ids * inside, segments


def _merge_stuff(
    labels: list[int],
    won: list[int],
    areas: list[int],
    visible: list[int],
    things: set[int],
    overlap_threshold: float,
) -> tuple[list[int], list[dict]]:
    """The segment id of each kept query (0: dropped), and the segments in order of their ids."""
    segment_of, segments, stuff_ids = [], [], {}
    for label, pixels, area, seen in zip(labels, won, areas, visible, strict=True):
        if seen == 0 or pixels / area < overlap_threshold:
            segment_of.append(0)
            continue
        isthing = label in things
        if isthing or label not in stuff_ids:
            segments.append({"id": len(segments) + 1, "isthing": isthing, "category_id": label})
            segment_of.append(len(segments))
            if not isthing:
                stuff_ids[label] = len(segments)
        else:
            segment_of.append(stuff_ids[label])
    return segment_of, segments


def instance_segmentation(
    class_logits: Tensor,
    mask_logits: Tensor,
    resize: Resize,
    *,
    max_instances: int,
    thing_classes: Collection[int] | None,
    class_map: Mapping[int, int] | None = None,
    score_threshold: float | None = None,
) -> Instances:
    """The best (query, class) pairs as instances, which may overlap.

    Args:
        class_logits: (Q, K + 1).
        mask_logits: (Q, h, w).
        resize: (n, h, w) logits -> (n, H, W).
        max_instances: pairs taken, fewer if there are not as many.
        thing_classes: class indices kept after that; None keeps all.
        class_map: renumbers classes for a benchmark whose instance set numbers them apart.
        score_threshold: keeps only pairs whose class score is above it.

    Returns:
        Instances of size (H, W), best first: pred_masks (n, H, W) bool, scores (n,) = class score * mean
        p(mask) inside the mask, pred_classes (n,) int64, pred_boxes tight around the masks.
    """
    num_classes = class_logits.shape[1] - 1
    probs = class_logits.softmax(-1)[:, :-1].flatten()
    scores, pairs = probs.topk(min(max_instances, len(probs)))
    classes = pairs % num_classes
    queries = pairs // num_classes
    keep = torch.ones_like(classes, dtype=torch.bool)
    if score_threshold is not None:
        keep &= scores > score_threshold
    if thing_classes is not None:
        things = torch.tensor(sorted(thing_classes), dtype=classes.dtype, device=classes.device)
        keep &= torch.isin(classes, things)
    scores, classes = scores[keep], classes[keep]
    unique, row = queries[keep].unique(return_inverse=True)

    logits = resize(mask_logits[unique])
    masks = logits > 0
    area = masks.flatten(1).sum(1)
    confidence = (logits.sigmoid_() * masks).flatten(1).sum(1) / (area + 1e-6)
    scores = scores * confidence[row]
    order = scores.argsort(descending=True, stable=True)
    row, classes = row[order], classes[order]
    if class_map is not None:
        mapped = [class_map[c] for c in classes.tolist()]
        classes = torch.tensor(mapped, dtype=classes.dtype, device=classes.device)
    result = Instances(tuple(masks.shape[1:]))
    result.pred_masks = masks[row]
    result.scores = scores[order]
    result.pred_classes = classes
    result.pred_boxes = Boxes(BitMasks(masks).get_bounding_boxes().tensor.to(masks.device)[row])
    return result
