"""A record becomes a question alone: its picture, and its whole target in colours that never change (in-context
tuning)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import configurable

from segcore.data.images import read_image

from .annotations import VOID, read_label_map
from .augmentation import View
from .colouring import fixed_colours
from .episodes import Source, source_arguments
from .places import paint_places


class QueryMapper:
    """Dataset dict -> "image" and "target" (3, h, w) uint8, "valid" (3, h, w) uint8, "file_name".

    By category every class that the record shows is painted in its own colour of `fixed_colours`; by instance
    every object in the colour of its place (`seggpt.data.places`). What has no label is black.

    Args:
        levels: of the palette of classes.
    """

    @configurable
    def __init__(
        self,
        *,
        sources: Sequence[Source],
        view: View,
        image_format: str = "RGB",
        by_instance: bool = False,
        levels: int = 0,
    ):
        self.sources, self.view, self.image_format = list(sources), view, image_format
        self.by_instance, self.levels = by_instance, levels

    @classmethod
    def from_config(cls, cfg, is_train: bool = True) -> dict:
        e, m = cfg.INPUT.EPISODES, cfg.MODEL.SEGGPT
        half = (m.IMG_SIZE[0] // 2, m.IMG_SIZE[1])
        return {
            "sources": source_arguments(cfg),
            "view": View(half, e.CROP_SCALE, e.CROP_RATIO, e.FLIP_PROB, e.JITTER, e.JITTER_PROB),
            "image_format": cfg.INPUT.FORMAT,
            "by_instance": m.TUNING.INSTANCE,
            "levels": m.TUNING.LEVELS,
        }

    def use_records(self, records: Sequence[dict]) -> None:
        """Nothing to prepare; that it exists gives each record its "source"."""

    def __call__(self, record: dict) -> dict:
        """See the class. Raises as `read_label_map` does."""
        rng = np.random.default_rng(np.random.randint(0, 2**31 - 1, 4))
        source = self.sources[record["source"]]
        image = read_image(record["file_name"], self.image_format)
        labels = read_label_map(
            record,
            image.shape[:2],
            by_instance=self.by_instance,
            things_only=source.things_only,
            ignore_label=source.ignore_label,
        )
        image, labels = self.view(rng, image, labels)
        target = paint_places(labels) if self.by_instance else self._paint_classes(labels, source.classes)
        valid = np.broadcast_to((labels != VOID).astype(np.uint8), (3, *labels.shape))
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "target": torch.from_numpy(np.ascontiguousarray(target.transpose(2, 0, 1))),
            "valid": torch.from_numpy(np.ascontiguousarray(valid)),
            "file_name": record["file_name"],
        }

    def _paint_classes(self, labels: np.ndarray, classes: int) -> np.ndarray:
        table = np.zeros((classes + 2, 3), np.uint8)  # the last is void's: black
        table[1:-1] = fixed_colours(classes, self.levels)
        return table[labels]
