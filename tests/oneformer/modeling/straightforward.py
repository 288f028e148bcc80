"""Post-processing as the papers describe it: every query's mask at full size, one query after the other.

What the package's form is tested against and measured against.
"""

from __future__ import annotations

import torch
from detectron2.structures import Instances


def semantic_labels(class_logits, mask_logits, resize):
    """(H, W) int64: class of the greatest sum over queries of p(class) * p(mask)."""
    masks = resize(mask_logits).sigmoid()
    return torch.einsum("qk,qhw->khw", class_logits.softmax(-1)[:, :-1], masks).argmax(0)


def panoptic_segmentation(
    class_logits, mask_logits, resize, *, thing_classes, object_threshold, overlap_threshold
):
    """As `oneformer.modeling.postprocess.panoptic_segmentation`."""
    masks = resize(mask_logits).sigmoid()
    scores, labels = class_logits.softmax(-1).max(-1)
    keep = (labels != class_logits.shape[1] - 1) & (scores > object_threshold)
    scores, labels, masks = scores[keep], labels[keep], masks[keep]
    ids, segments, stuff = torch.zeros(masks.shape[1:], dtype=torch.int32), [], {}
    if len(scores) == 0:
        return ids, segments
    winner = (scores[:, None, None] * masks).argmax(0)
    for k, label in enumerate(labels.tolist()):
        won, own = winner == k, masks[k] >= 0.5
        mask = won & own
        if own.sum().item() == 0 or mask.sum().item() == 0:
            continue
        if won.sum().item() / own.sum().item() < overlap_threshold:
            continue
        isthing = label in thing_classes
        if not isthing and label in stuff:
            ids[mask] = stuff[label]
            continue
        segments.append({"id": len(segments) + 1, "isthing": isthing, "category_id": label})
        ids[mask] = len(segments)
        if not isthing:
            stuff[label] = len(segments)
    return ids, segments


def instance_segmentation(class_logits, mask_logits, resize, *, max_instances, thing_classes):
    """As `oneformer.modeling.postprocess.instance_segmentation`, without boxes."""
    masks = resize(mask_logits)
    classes = class_logits.shape[1] - 1
    scores, pairs = class_logits.softmax(-1)[:, :-1].flatten().topk(min(max_instances, len(masks) * classes))
    labels, masks = pairs % classes, masks[pairs // classes]
    keep = torch.tensor([label in thing_classes for label in labels.tolist()], dtype=torch.bool)
    scores, labels, masks = scores[keep], labels[keep], masks[keep]
    inside = (masks > 0).float()
    scores = scores * (masks.sigmoid() * inside).flatten(1).sum(1) / (inside.flatten(1).sum(1) + 1e-6)
    order = scores.argsort(descending=True, stable=True)
    result = Instances(tuple(masks.shape[1:]))
    result.pred_masks, result.scores, result.pred_classes = inside[order] > 0, scores[order], labels[order]
    return result


def scene(queries: int, classes: int, size: tuple[int, int], seed: int = 0):
    """Logits as a trained model gives them: a third of the queries show overlapping blobs with soft borders,
    the others say "no object" over a weak, smooth map.

    Returns:
        (queries, classes + 1) class logits, (queries, *size) mask logits.
    """
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.rand(shape, generator=generator)

    height, width = size
    y, x = torch.arange(height)[:, None] / height, torch.arange(width) / width
    class_logits = random(queries, classes + 1) * 3
    mask_logits = torch.nn.functional.interpolate(
        random(1, queries, 6, 6) * 6 - 8, size=size, mode="bicubic", align_corners=False
    )[0]
    shown = queries // 3
    class_logits[shown:, classes] += 9
    for q in range(shown):
        class_logits[q, int(random(1) * classes)] += 7 + 5 * float(random(1))
        centre, radius = random(2), 0.03 + 0.17 * random(2) ** 2
        distance = (((y - centre[0]) / radius[0]) ** 2 + ((x - centre[1]) / radius[1]) ** 2).sqrt()
        mask_logits[q] = ((1 - distance) * float(radius.min()) * max(size) * 2).clamp(-9, 9) + random(*size) - 0.5
    return class_logits, mask_logits
