"""Test-time augmentation: several sizes, each with its mirror image, for all three tasks.

Every view is resized from the original file.  Semantic scores are averaged over
the views; for panoptic and instance segmentation queries are merged first
(`merging.py`), and the merged ones are post-processed as one image's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from segcore.data.images import read_image

from ..data.augmentation import ResizeShortestEdge
from ..modeling.mask_resize import MaskResizer
from ..tasks import SEMANTIC, asked_tasks
from .merging import QueryGroups


class View(NamedTuple):
    """short_side, longest: of Detectron2's ResizeShortestEdge, pixels; mirrored: left and right changed."""

    short_side: int
    longest: int
    mirrored: bool


class TestTimeAugmentation(nn.Module):
    """A model that looks at each image in several sizes, and mirrored.

    Args:
        model: OneFormer, in eval mode.
        base: (short side, longest side) at which the model sees an image without augmentation; the other views
            are matched to this one.
        sizes: short sides of the other views.
        max_size: longest side of the other views.
        flip: whether each size is seen mirrored too.
        image_format: "RGB" or "BGR", of the model's input.
        absence: see `QueryGroups`.
    """

    __test__ = False  # pytest: this is no test

    def __init__(
        self,
        model: nn.Module,
        *,
        base: tuple[int, int],
        sizes: Sequence[int],
        max_size: int,
        flip: bool = True,
        image_format: str = "RGB",
        absence: float = 0.5,
    ) -> None:
        super().__init__()
        if not sizes or min(sizes) < 1:
            raise ValueError(f"TEST.AUG.MIN_SIZES is {list(sizes)}; expected sizes of at least one pixel")
        self.model = model
        self.image_format = image_format
        self.absence = absence
        every = [base, *((size, max_size) for size in dict.fromkeys(sizes) if size != base[0])]
        self.views = [View(*size, mirrored) for size in every for mirrored in ((False, True) if flip else (False,))]

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """As `OneFormer.forward` in eval mode.

        Args:
            batched_inputs: dicts with "original_image", (H, W, 3) uint8 in the model's channel order, or
                "file_name", or neither and "image", (3, h, w), which then is the original; "height", "width"
                and "task" as for the model.
        """
        return [self._segment(x) for x in batched_inputs]

    def _segment(self, x: dict) -> dict:
        image = self._original(x)
        output_size = (int(x.get("height", image.shape[0])), int(x.get("width", image.shape[1])))
        tasks = asked_tasks(x)
        result: dict = {}
        groups: dict[str, QueryGroups] = {}
        scores: Tensor | None = None
        for view in self.views:
            pixels = self._view(image, view)
            raw = self.model.predict_queries([{"image": pixels, "task": tasks}])
            size = tuple(pixels.shape[-2:])
            resize = MaskResizer(self.model.padded_size(size), size, output_size)
            for task, class_logits, mask_logits in zip(tasks, raw["pred_logits"], raw["pred_masks"]):
                if task == SEMANTIC:
                    one = self.model.postprocess(task, class_logits, mask_logits, resize)["sem_seg"]
                    one = one.flip(2) if view.mirrored else one
                    scores = one if scores is None else scores.add_(one)
                    continue
                masks = resize(mask_logits)
                masks = masks.flip(2) if view.mirrored else masks
                if task in groups:
                    groups[task].add(class_logits, masks)
                else:
                    groups[task] = QueryGroups(class_logits, masks, self.absence)
        if scores is not None:
            result["sem_seg"] = scores / len(self.views)
        whole = MaskResizer.unchanged(output_size)  # the merged masks have that size
        for task, group in groups.items():
            result.update(self.model.postprocess(task, *group.merged(), whole))
        return result

    def _original(self, x: dict) -> np.ndarray:
        """(H, W, 3) of the file, before any resizing."""
        if "original_image" in x:
            return x["original_image"]
        if x.get("file_name"):
            return read_image(x["file_name"], self.image_format)
        return np.ascontiguousarray(x["image"].permute(1, 2, 0).cpu().numpy())

    def _view(self, image: np.ndarray, view: View) -> Tensor:
        """(3, h, w) uint8 of what the model is shown."""
        resize = ResizeShortestEdge(view.short_side, view.longest).get_transform(image)
        resized = resize.apply_image(image)
        pixels = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        return pixels.flip(2) if view.mirrored else pixels
