"""From queries to the three kinds of result: pure functions of logits and data-set facts
(Mask2Former, arXiv:2112.01527, sec. 3.1 and 4; MaskFormer, arXiv:2107.06278, sec. 3.4).

The masks of all queries never exist at the result's size. Bounds of a query's logits in a tile of pixels
decide most tiles outright; what is left is computed for the queries that matter there, some rows at a time.

Shapes:  Q queries, K classes (without "no object"), h, w size of the mask logits,
         H, W size of the result, I, J rows and columns of tiles.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from segcore.ops.native import suits_native

from .mask_resize import ROUNDING, TILE, MaskResizer

BYTES_AT_ONCE = 16 << 20   # of full-size masks that are held together; a row of all of them at least


def semantic_segmentation(class_logits: Tensor, mask_logits: Tensor, resize: MaskResizer) -> Tensor:
    """Class scores of every pixel: sum over queries of p(class) * p(mask).

    Args:
        class_logits: (Q, K + 1).
        mask_logits: (Q, h, w).
        resize: to (H, W).

    Returns:
        (K, H, W) float32, not normalised.
    """
    probs = class_logits.softmax(-1)[:, :-1]
    height, width = resize.output_size
    scores = mask_logits.new_empty(probs.shape[1], height * width)
    for rows in _bands(height, width * max(len(probs), 1)):
        masks = resize.window(mask_logits, rows, slice(0, width)).sigmoid_()
        torch.mm(probs.T, masks.flatten(1), out=scores[:, rows.start * width : rows.stop * width])
    return scores.unflatten(1, (height, width))


def semantic_labels(class_logits: Tensor, mask_logits: Tensor, resize: MaskResizer) -> Tensor:
    """The class of every pixel: `semantic_segmentation(...).argmax(0)` without the scores.

    Where two classes are within rounding of each other, either may be given.

    Returns:
        (H, W) uint8, int32 beyond 256 classes.
    """
    probs = class_logits.softmax(-1)[:, :-1]
    height, width = resize.output_size
    bounds = resize.bounds(mask_logits)
    best, rivals = _leading_classes(probs, bounds.least.sigmoid(), bounds.greatest.sigmoid())
    labels = best.to(torch.uint8 if probs.shape[1] <= 256 else torch.int32)
    labels = labels.repeat_interleave(TILE, 0)[:height].repeat_interleave(TILE, 1)[:, :width].contiguous()
    open_tiles = rivals.sum(0) > 1
    for i in open_tiles.any(1).nonzero()[:, 0].tolist():
        tiles = open_tiles[i].nonzero()[:, 0]
        classes = rivals[:, i, tiles].any(1).nonzero()[:, 0]
        wanted, chosen = probs[:, classes], classes.to(labels.dtype)
        for rows, columns in _pieces(i, tiles, resize.output_size, len(probs)):
            masks = resize.window(mask_logits, rows, columns).sigmoid_()
            winner = (masks.flatten(1).T @ wanted).argmax(1)
            labels[rows, columns] = chosen[winner].unflatten(0, masks.shape[1:])
    return labels


def _leading_classes(probs: Tensor, least: Tensor, greatest: Tensor) -> tuple[Tensor, Tensor]:
    """The class expected to lead in each tile, (I, J), and which classes can lead at any of its pixels,
    (K, I, J) bool.

    Class c stays below class b if sum_q (p_qb - p_qc) m_q > 0 for all m between `least` and `greatest`.
    """
    flat = least.flatten(1), greatest.flatten(1)
    best = (probs.T @ (flat[0] + flat[1])).argmax(0)
    rivals = torch.empty(probs.shape[1], best.numel(), dtype=torch.bool, device=best.device)
    for leader in best.unique().tolist():
        tiles = (best == leader).nonzero()[:, 0]
        ahead = probs[:, leader : leader + 1] - probs
        lead = ahead.clamp(min=0).T @ flat[0][:, tiles] + ahead.clamp(max=0).T @ flat[1][:, tiles]
        rivals[:, tiles] = lead <= ROUNDING
    return best.view(least.shape[1:]), rivals.view(-1, *least.shape[1:])


def panoptic_segmentation(
    class_logits: Tensor,
    mask_logits: Tensor,
    resize: MaskResizer,
    *,
    thing_classes: Collection[int],
    object_threshold: float,
    overlap_threshold: float,
) -> tuple[Tensor, list[dict]]:
    """Non-overlapping segments: each pixel goes to the query with the highest score * p(mask).

    Args:
        class_logits: (Q, K + 1).
        mask_logits: (Q, h, w).
        resize: to (H, W).
        thing_classes: class indices that are things; segments of any other class are merged.
        object_threshold: a query counts if its class score is above this.
        overlap_threshold: a query is dropped if it won less than this part of its mask's area.

    Returns:
        (H, W) int32 of segment ids, 0 where there is none, and for each segment its
        "id" (from 1), "isthing" and "category_id" (class index).
    """
    scores, labels = class_logits.softmax(-1).max(-1)
    keep = ((labels != class_logits.shape[-1] - 1) & (scores > object_threshold)).nonzero()[:, 0]
    if len(keep) == 0:
        return torch.zeros(resize.output_size, dtype=torch.int32, device=scores.device), []
    places, areas = _compete(scores[keep], mask_logits[keep], resize)
    segment_of, segments = _merge_stuff(
        labels[keep].tolist(), *areas.tolist(), set(thing_classes), overlap_threshold
    )
    ids = torch.tensor([0, *segment_of], dtype=torch.int32, device=places.device)
    return ids.index_select(0, places.flatten().int()).view(places.shape), segments


def _compete(scores: Tensor, mask_logits: Tensor, resize: MaskResizer) -> tuple[Tensor, Tensor]:
    """Which of n queries each pixel goes to.

    Returns:
        (H, W) int16: 0 where the winner's own p(mask) is below 1/2, else 1 + the winner's number; and
        (3, n) int64 per query: pixels won, pixels with p(mask) of 1/2 or more, pixels with both.
    """
    count, size = len(scores), resize.output_size
    bounds = resize.bounds(mask_logits)
    inside = bounds.least > 0
    unsure = ~inside & (bounds.greatest >= 0)
    least, greatest = (x.sigmoid() * scores[:, None, None] for x in (bounds.least, bounds.greatest))
    rivals = greatest >= least.amax(0) - ROUNDING
    closed = (rivals.sum(0) == 1) & ~unsure.any(0)

    # Of closed tiles everything is known.
    winner = (rivals * torch.arange(count, device=scores.device)[:, None, None]).sum(0) * closed
    pixels = _tile_pixels(size, scores.device)
    known = pixels * closed
    won = torch.zeros(count, dtype=torch.int64, device=scores.device).index_add_(0, winner.flatten(), known.flatten())
    visible = inside.gather(0, winner[None])[0]
    seen = torch.zeros_like(won).index_add_(0, winner.flatten(), (known * visible).flatten())
    covered = (inside * pixels).flatten(1).sum(1)
    places = ((winner + 1) * visible).to(torch.int16)
    places = places.repeat_interleave(TILE, 0)[: size[0]].repeat_interleave(TILE, 1)[:, : size[1]].contiguous()

    for i in (~closed).any(1).nonzero()[:, 0].tolist():
        tiles = (~closed[i]).nonzero()[:, 0]
        chosen = (rivals[:, i, tiles] | unsure[:, i, tiles]).any(1).nonzero()[:, 0]
        # The chosen are counted pixel by pixel, no longer as whole tiles.
        covered[chosen] -= (inside[:, i, tiles][chosen] * pixels[i, tiles]).sum(1)
        for rows, columns in _pieces(i, tiles, size, len(chosen)):
            probs = resize.window(mask_logits, rows, columns, chosen).sigmoid_()
            winner, counts = _compete_for_pixels(probs.flatten(1), scores[chosen])
            for total, count in zip((won, covered, seen), counts):
                total[chosen] += count
            numbers = torch.cat((chosen.new_zeros(1), chosen + 1)).to(torch.int16)
            places[rows, columns] = numbers.index_select(0, winner.int()).view(probs.shape[1:])
    return places, torch.stack((won, covered, seen))


def _compete_for_pixels(probs: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """`_compete` for the p(mask) of n queries at some pixels, (n, pixels): (pixels,) int16 and (3, n) int64."""
    if suits_native(probs, scores):
        return torch.ops.segcore_native.compete(probs, scores)
    mine = probs >= 0.5
    winner = _first_greatest(probs.mul_(scores[:, None]))
    visible = mine.gather(0, winner[None])[0]
    count = len(scores)
    counts = winner.bincount(minlength=count), mine.sum(1), winner[visible].bincount(minlength=count)
    return ((winner + 1) * visible).to(torch.int16), torch.stack(counts)


def _first_greatest(x: Tensor) -> Tensor:
    """`x.argmax(0)`, the first of equals, by whole rows; PyTorch's own goes from value to value."""
    rank = torch.arange(len(x), 0, -1, dtype=torch.int16, device=x.device)[:, None]
    return (len(x) - ((x == x.amax(0)) * rank).amax(0)).long()


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
    resize: MaskResizer,
    *,
    max_instances: int,
    thing_classes: Collection[int] | None,
    class_map: Mapping[int, int] | None = None,
    score_threshold: float | None = None,
    least_score: float = 0.0,
) -> Instances:
    """The best (query, class) pairs as instances, which may overlap.

    Args:
        class_logits: (Q, K + 1).
        mask_logits: (Q, h, w).
        resize: to (H, W).
        max_instances: pairs taken, fewer if there are not as many.
        thing_classes: class indices kept after that; None keeps all.
        class_map: renumbers classes for a benchmark whose instance set numbers them apart.
        score_threshold: keeps only pairs whose class score is above it.
        least_score: keeps only instances whose final score reaches it; masks of the others are not made.

    Returns:
        Instances of size (H, W), best first: pred_masks (n, H, W) bool, scores (n,) = class score * mean
        p(mask) inside the mask, pred_classes (n,) int64, pred_boxes tight around the masks.
    """
    num_classes = class_logits.shape[1] - 1
    probs = class_logits.softmax(-1)[:, :-1].flatten()
    scores, pairs = probs.topk(min(max_instances, len(probs)))
    classes = pairs % num_classes
    queries = pairs // num_classes
    keep = scores >= least_score   # the mask's part of a score is at most 1
    if score_threshold is not None:
        keep &= scores > score_threshold
    if thing_classes is not None:
        things = torch.tensor(sorted(thing_classes), dtype=classes.dtype, device=classes.device)
        keep &= torch.isin(classes, things)
    scores, classes = scores[keep], classes[keep]
    unique, row = queries[keep].unique(return_inverse=True)
    crops = list(_crops(mask_logits[unique], resize))
    confidence = torch.stack([crop.confidence for crop in crops]) if crops else scores.new_zeros(0)
    scores = scores * confidence[row]
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] >= least_score]
    row, classes = row[order].tolist(), classes[order]
    if class_map is not None:
        mapped = [class_map[c] for c in classes.tolist()]
        classes = torch.tensor(mapped, dtype=classes.dtype, device=classes.device)
    result = Instances(resize.output_size)
    result.pred_masks = _paste([crops[i] for i in row], resize.output_size, scores.device)
    result.scores = scores[order]
    result.pred_classes = classes
    boxes = [crops[i].box for i in row]
    result.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32, device=scores.device).view(-1, 4))
    return result


@dataclass(frozen=True)
class _Crop:
    """One mask: box (x0, y0, x1, y1) tight around it, mask inside of the box, mean p(mask) inside the mask."""

    box: tuple[int, int, int, int]
    mask: Tensor
    confidence: Tensor


def _crops(mask_logits: Tensor, resize: MaskResizer) -> Iterator[_Crop]:
    """Each query's mask, computed where its logits can be positive."""
    possible = resize.bounds(mask_logits).greatest >= 0
    spans = [_spans(possible.any(dim).cpu(), resize.output_size[2 - dim]) for dim in (2, 1)]
    for mask, rows, columns in zip(mask_logits[:, None], *spans, strict=True):
        parts, total = [], mask.new_zeros(())
        for band in _bands(rows.stop - rows.start, columns.stop - columns.start):
            band = slice(rows.start + band.start, rows.start + band.stop)
            logits = resize.window(mask, band, columns)[0]
            parts.append(logits > 0)
            total = total + logits.sigmoid_().mul_(parts[-1]).sum()
        inside = torch.cat(parts) if parts else mask.new_zeros((0, 0), dtype=torch.bool)
        x, y = (_extent(inside.any(dim)) for dim in (0, 1))
        box = (columns.start + x.start, rows.start + y.start, columns.start + x.stop, rows.start + y.stop)
        yield _Crop(box if inside.any() else (0, 0, 0, 0), inside[y, x], total / (inside.sum() + 1e-6))


def _spans(possible: Tensor, length: int) -> list[slice]:
    """(Q, tiles) bool -> for each query the pixels from its first to its last tile."""
    extents = [_extent(row) for row in possible]
    return [slice(e.start * TILE, min(e.stop * TILE, length)) for e in extents]


def _extent(flags: Tensor) -> slice:
    """From the first to the last True."""
    places = flags.nonzero()[:, 0].tolist()
    return slice(places[0], places[-1] + 1) if places else slice(0, 0)


def _paste(crops: list[_Crop], size: tuple[int, int], device: torch.device) -> Tensor:
    masks = torch.zeros(len(crops), *size, dtype=torch.bool, device=device)
    for mask, crop in zip(masks, crops, strict=True):
        x0, y0, x1, y1 = crop.box
        mask[y0:y1, x0:x1] = crop.mask
    return masks


def _bands(height: int, elements_per_row: int) -> Iterator[slice]:
    """The rows in pieces of at most `BYTES_AT_ONCE` of fp32, at least one row each."""
    step = max(1, BYTES_AT_ONCE // (4 * max(elements_per_row, 1)))
    for start in range(0, height, step):
        yield slice(start, min(start + step, height))


def _pieces(i: int, tiles: Tensor, size: tuple[int, int], count: int) -> Iterator[tuple[slice, Tensor]]:
    """Rows and columns of the given tiles of tile row i, for `count` masks within `BYTES_AT_ONCE`."""
    rows = slice(i * TILE, min((i + 1) * TILE, size[0]))
    columns = (tiles[:, None] * TILE + torch.arange(TILE, device=tiles.device)).flatten()
    step = max(TILE, BYTES_AT_ONCE // (4 * TILE * max(count, 1)))
    for part in columns[columns < size[1]].split(step):
        yield rows, part


def _tile_pixels(size: tuple[int, int], device: torch.device) -> Tensor:
    """(I, J) int64: how many pixels each tile has."""
    rows, columns = (
        (length - torch.arange(0, length, TILE, device=device)).clamp(max=TILE) for length in size
    )
    return rows[:, None] * columns


