"""Results of overlapping windows, joined into those of the whole image.

Each holds what has been joined so far and takes one window after the other; with a
single window the result is the window's, unchanged.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor

from .tiling import Rectangle

SAME = 0.5   # overlap (intersection over union, where both windows look) that makes two masks one object


class SemanticCanvas:
    """The mean of the windows' class scores where they overlap."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.total: Tensor | None = None
        self.count: Tensor | None = None

    def add(self, scores: Tensor, seen: Rectangle) -> None:
        """scores: (K, h, w) of the window at `seen`."""
        if self.total is None:
            self.total = scores.new_zeros(len(scores), *self.size)
            self.count = scores.new_zeros(self.size)
        rows, columns = seen.slices
        self.total[:, rows, columns] += scores
        self.count[rows, columns] += 1

    def result(self) -> Tensor:
        """(K, H, W) scores."""
        return self.total.div_(self.count)


class PanopticCanvas:
    """Segments joined by the map that they make: stuff by class, things by their overlap.

    A pixel in several windows gets its segment from the one whose core it lies in.
    """

    def __init__(self, size: tuple[int, int], device: torch.device) -> None:
        self.ids = torch.zeros(size, dtype=torch.int32, device=device)
        self.seen = torch.zeros(size, dtype=torch.bool, device=device)
        self.segments: dict[int, dict] = {}

    def add(self, ids: Tensor, segments: list[dict], seen: Rectangle, core: Rectangle) -> None:
        """ids: (h, w) int32 of the window at `seen`, with `segments` as `panoptic_segmentation` returns them."""
        rows, columns = seen.slices
        known, before = self.ids[rows, columns], self.seen[rows, columns]
        table = torch.zeros(max([0, *(s["id"] for s in segments)]) + 1, dtype=torch.int32, device=ids.device)
        taken: set[int] = set()
        for segment in segments:
            joined = self._find(segment, ids, known, before, taken)
            if joined is None:
                joined = len(self.segments) + 1
                self.segments[joined] = {**segment, "id": joined}
            taken.add(joined)
            table[segment["id"]] = joined
        decides = ~before
        inner_rows, inner_columns = core.within(seen).slices
        decides[inner_rows, inner_columns] = True
        self.ids[rows, columns] = torch.where(decides, table[ids.long()], known)
        self.seen[rows, columns] = True

    def _find(
        self, segment: dict, ids: Tensor, known: Tensor, before: Tensor, taken: Collection[int]
    ) -> int | None:
        """The id of the segment that this one continues, or None."""
        same_class = [s for s in self.segments.values() if s["category_id"] == segment["category_id"]]
        if not segment["isthing"]:
            return same_class[0]["id"] if same_class else None
        mask = (ids == segment["id"]) & before
        area = int(mask.sum())
        if not area:
            return None
        candidates = {s["id"] for s in same_class} - set(taken)
        touched, counts = known[mask].unique(return_counts=True)
        best, best_overlap = None, SAME
        for number, common in zip(touched.tolist(), counts.tolist()):
            if number in candidates:
                union = area + int(((known == number) & before).sum()) - common
                if common / union >= best_overlap:
                    best, best_overlap = number, common / union
        return best

    def result(self) -> tuple[Tensor, list[dict]]:
        """(H, W) int32 ids from 1, 0 where there is none, and their segments."""
        areas = self.ids.flatten().bincount(minlength=len(self.segments) + 1).tolist()
        kept = [segment for number, segment in self.segments.items() if areas[number]]
        if len(kept) == len(self.segments):
            return self.ids, kept
        table = torch.zeros(len(self.segments) + 1, dtype=torch.int32, device=self.ids.device)
        for number, segment in enumerate(kept, start=1):
            table[segment["id"]] = number
        return table[self.ids.long()], [{**s, "id": n} for n, s in enumerate(kept, start=1)]


class InstanceCanvas:
    """Instances of one class that agree where two windows overlap are one: masks united, scores by area."""

    def __init__(self, size: tuple[int, int], max_instances: int) -> None:
        self.size, self.max_instances = size, max_instances
        self.objects: list[dict] = []
        self.windows: list[Rectangle] = []

    def add(self, found: Instances, seen: Rectangle) -> None:
        """found: pred_masks (n, h, w), scores, pred_classes of the window at `seen`."""
        earlier = len(self.objects)
        for mask, score, category in zip(found.pred_masks, found.scores, found.pred_classes):
            part = {"mask": mask, "score": score, "at": seen}
            match = self._find(part, int(category), earlier)
            if match is None:
                self.objects.append({"category": int(category), "parts": [part]})
            else:
                match["parts"].append(part)
        self.windows.append(seen)

    def _find(self, part: dict, category: int, earlier: int) -> dict | None:
        """The object of an earlier window that this is another part of, or None."""
        best, best_overlap = None, SAME
        for candidate in self.objects[:earlier]:
            if candidate["category"] != category or candidate["parts"][-1]["at"] == part["at"]:
                continue
            overlap = max(_overlap(part, other) for other in candidate["parts"])
            if overlap >= best_overlap:
                best, best_overlap = candidate, overlap
        return best

    def result(self, device: torch.device) -> Instances:
        """The best of them, best first, as `instance_segmentation` returns them."""
        scores = torch.stack([_score(o) for o in self.objects]) if self.objects else torch.zeros(0, device=device)
        order = scores.argsort(descending=True, stable=True)[: self.max_instances]
        masks = torch.zeros(len(order), *self.size, dtype=torch.bool, device=device)
        for row, number in enumerate(order.tolist()):
            for part in self.objects[number]["parts"]:
                masks[row][part["at"].slices] |= part["mask"]
        result = Instances(self.size)
        result.pred_masks, result.scores = masks, scores[order]
        categories = [self.objects[number]["category"] for number in order.tolist()]
        result.pred_classes = torch.tensor(categories, dtype=torch.int64, device=device)
        result.pred_boxes = Boxes(BitMasks(masks).get_bounding_boxes().tensor.to(device))
        return result


def _overlap(a: dict, b: dict) -> float:
    """Intersection over union of two parts where both windows look; 0 where none of them has a pixel there."""
    in_a, in_b = b["at"].within(a["at"]), a["at"].within(b["at"])
    if 0 in in_a.size:
        return 0.0
    first, second = a["mask"][in_a.slices], b["mask"][in_b.slices]
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 0.0


def _score(item: dict) -> Tensor:
    """The mean score of the parts, each counted by its area."""
    parts = item["parts"]
    if len(parts) == 1:
        return parts[0]["score"]
    areas = torch.stack([part["mask"].sum() for part in parts]).clamp(min=1).to(parts[0]["score"])
    return (torch.stack([part["score"] for part in parts]) * areas).sum() / areas.sum()
