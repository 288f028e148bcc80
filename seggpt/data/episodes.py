"""A record becomes an episode: an example above, a question below, one colour table for both.

Shapes:  H, W the stitched canvas (MODEL.SEGGPT.IMG_SIZE), h = H / 2 one half of it, p the patch,
         L = H/p * W/p patches.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import MetadataCatalog

from segcore.data.images import read_image

from .annotations import VOID, read_label_map
from .augmentation import View, random_box, resize_labels, resize_picture
from .colouring import fixed_colours, random_colours
from .context import ContextIndex
from .masking import block_mask, half_mask


class Source(NamedTuple):
    """How episodes are made from one entry of DATASETS.TRAIN."""

    instance_prob: float
    things_only: bool
    ignore_label: int
    classes: int


class EpisodeMapper:
    """Dataset dict -> one canvas for `SegGPT.forward` (SegGPT sec. 3.1).

    Returns, per record: "image" and "target" (3, H, W) uint8, "valid" (3, H, W) uint8, 0 where the label is
    void, "mask" (L,) uint8, 1 = hidden, "seg_type" 0 (category) or 1 (instance), and "file_name".

    `use_records` has to be called before the first record is mapped.
    """

    @configurable
    def __init__(
        self,
        *,
        canvas: tuple[int, int],
        patch: int,
        sources: Sequence[Source],
        view: View,
        same_image_prob: float,
        mix_prob: float,
        mix_scale: tuple[float, float],
        stitch_crop_prob: float,
        stitch_crop_ratio: tuple[float, float],
        half_mask_prob: float,
        mask_ratio: float,
        max_labels: int,
        min_pixels: int,
        tries: int,
        colour_distance: int,
        random_colouring: bool = True,
        image_format: str = "RGB",
        keep_records: int = 0,
    ):
        """See `seggpt.config` for what each value means and why it has its default."""
        self.canvas, self.patch, self.view = tuple(canvas), patch, view
        self.half = (canvas[0] // 2, canvas[1])
        self.sources = list(sources)
        self.same_image_prob = same_image_prob
        self.mix_prob, self.mix_scale = mix_prob, tuple(mix_scale)
        self.stitch_crop_prob, self.stitch_crop_ratio = stitch_crop_prob, tuple(stitch_crop_ratio)
        self.half_mask_prob, self.mask_ratio = half_mask_prob, mask_ratio
        self.max_labels, self.min_pixels, self.tries = max_labels, min_pixels, tries
        self.colour_distance, self.random_colouring = colour_distance, random_colouring
        self.image_format = image_format
        self.keep_records = keep_records
        self._kept: dict[tuple, tuple[np.ndarray, np.ndarray]] = {}
        self.index: ContextIndex | None = None

    @classmethod
    def from_config(cls, cfg, is_train: bool = True) -> dict:
        e, m = cfg.INPUT.EPISODES, cfg.MODEL.SEGGPT
        half = (m.IMG_SIZE[0] // 2, m.IMG_SIZE[1])
        return {
            "canvas": m.IMG_SIZE,
            "patch": m.PATCH_SIZE,
            "sources": source_arguments(cfg),
            "view": View(half, e.CROP_SCALE, e.CROP_RATIO, e.FLIP_PROB, e.JITTER, e.JITTER_PROB),
            "same_image_prob": e.SAME_IMAGE_PROB,
            "mix_prob": e.MIX_PROB,
            "mix_scale": e.CROP_SCALE,
            "stitch_crop_prob": e.STITCH_CROP_PROB,
            "stitch_crop_ratio": e.STITCH_CROP_RATIO,
            "half_mask_prob": e.HALF_MASK_PROB,
            "mask_ratio": e.MASK_RATIO,
            "max_labels": e.MAX_LABELS,
            "min_pixels": e.MIN_PIXELS,
            "tries": e.TRIES,
            "colour_distance": e.COLOUR_DISTANCE,
            "random_colouring": e.RANDOM_COLOURS,
            "image_format": cfg.INPUT.FORMAT,
            "keep_records": e.KEEP_RECORDS,
        }

    def use_records(self, records: Sequence[dict]) -> None:
        """Tell the whole training set, of which contexts are drawn; each record has its "source"."""
        self.index = ContextIndex(records, [source.things_only for source in self.sources])

    def __call__(self, record: dict) -> dict:
        """See the class.

        Raises:
            FileNotFoundError, ValueError: for a file that is missing or damaged, or a record whose labels
                cannot be read as its source says.
        """
        if self.index is None:
            raise ValueError("EpisodeMapper.use_records has not been called: there is no set to draw contexts from")
        # From numpy's global generator, which the loader seeds for each sample.
        rng = np.random.default_rng(np.random.randint(0, 2**31 - 1, 4))
        by_instance = rng.random() < self.sources[record["source"]].instance_prob
        halves, labels = self._draw_halves(rng, record, by_instance)
        images, maps = np.concatenate([h[0] for h in halves]), np.concatenate([h[1] for h in halves])
        mask, cropped = self._draw_mask(rng, by_instance)
        if cropped:
            images, maps = self._crop_stitch(rng, images, maps)
        target = self._paint(rng, record, maps, labels)
        if not labels:  # nothing in common: no pixel of this canvas counts
            maps = np.full_like(maps, VOID)
        valid = np.broadcast_to((maps != VOID).astype(np.uint8), (3, *maps.shape))
        return {
            "image": torch.from_numpy(np.ascontiguousarray(images.transpose(2, 0, 1))),
            "target": torch.from_numpy(np.ascontiguousarray(target.transpose(2, 0, 1))),
            "valid": torch.from_numpy(np.ascontiguousarray(valid)),
            "mask": torch.from_numpy(mask.reshape(-1).astype(np.uint8)),
            "seg_type": int(by_instance),
            "file_name": record["file_name"],
        }

    # -- pictures and labels ---------------------------------------------------------------

    def _draw_halves(self, rng, record: dict, by_instance: bool):
        """Two halves, (picture, label map) each, and the labels chosen among those that both show."""
        mixed = rng.random() < self.mix_prob
        read = partial(self._read, by_instance=by_instance, seen={})
        for _ in range(self.tries):
            same = by_instance or rng.random() < self.same_image_prob
            make = self._mixed_halves if mixed else self._plain_halves
            halves = make(rng, record, same, read)
            common = self._common(halves[0][1], halves[1][1])
            if common:
                break
        if not common:
            return halves, []
        count = int(rng.integers(1, min(len(common), self.max_labels) + 1))
        return halves, [int(label) for label in rng.choice(common, count, replace=False)]

    def _plain_halves(self, rng, record: dict, same: bool, read: Callable):
        """A view of the context above, a view of the record below."""
        context = record if same else self.index.draw(rng, record)
        return [self.view(rng, *read(context)), self.view(rng, *read(record))]

    def _mixed_halves(self, rng, record: dict, same: bool, read: Callable):
        """Each half a random part of four views in a square, of the record and of contexts of it."""
        halves = []
        for _ in range(2):
            others = [record if same else self.index.draw(rng, record) for _ in range(3)]
            views = [self.view(rng, *read(r)) for r in (record, *others)]
            views = [views[i] for i in rng.permutation(4)]
            picture, labels = (
                np.concatenate([np.concatenate([v[k] for v in views[r : r + 2]], 1) for r in (0, 2)]) for k in (0, 1)
            )
            box = random_box(rng, labels.shape, self.mix_scale, self.view.ratio)
            halves.append((resize_picture(picture, box, self.half), resize_labels(labels, box, self.half)))
        return halves

    def _read(self, record: dict, *, by_instance: bool, seen: dict) -> tuple[np.ndarray, np.ndarray]:
        """Picture and label map; `seen` holds those of this episode, so that none is decoded twice."""
        key = (record["file_name"], record["source"], by_instance)
        if key in self._kept:
            return self._kept[key]
        kept = self._kept if len(self._kept) < self.keep_records else seen
        if key not in kept:
            image = read_image(record["file_name"], self.image_format)
            source = self.sources[record["source"]]
            labels = read_label_map(
                record,
                image.shape[:2],
                by_instance=by_instance,
                things_only=source.things_only,
                ignore_label=source.ignore_label,
            )
            kept[key] = image, labels
        return kept[key]

    def _common(self, first: np.ndarray, second: np.ndarray) -> list[int]:
        """Labels of at least `min_pixels` in each of two maps."""
        found = []
        for labels in (first, second):
            values, counts = np.unique(labels, return_counts=True)
            found.append(set(values[(counts >= self.min_pixels) & (values > 0)].tolist()))
        return sorted(found[0] & found[1])

    def _crop_stitch(self, rng, images: np.ndarray, maps: np.ndarray):
        """Painter's second crop: a part of the whole canvas, blown up to the canvas."""
        box = random_box(rng, maps.shape, self.mix_scale, self.stitch_crop_ratio)
        return resize_picture(images, box, self.canvas), resize_labels(maps, box, self.canvas)

    # -- targets ------------------------------------------------------------------------------

    def _draw_mask(self, rng, by_instance: bool) -> tuple[np.ndarray, bool]:
        """(rows, cols) bool, and whether the canvas may be cropped as a whole."""
        grid = (self.canvas[0] // self.patch, self.canvas[1] // self.patch)
        if rng.random() < self.half_mask_prob:
            return half_mask(*grid), False
        mask = block_mask(*grid, self.mask_ratio, random.Random(int(rng.integers(1 << 62))), rng)
        return mask, not by_instance and rng.random() < self.stitch_crop_prob

    def _paint(self, rng, record: dict, maps: np.ndarray, labels: list[int]) -> np.ndarray:
        """(H, W, 3) uint8: the chosen labels in their colours, everything else black."""
        if self.random_colouring:
            colours = random_colours(rng, len(labels), self.colour_distance)
        else:
            palette = fixed_colours(self.sources[record["source"]].classes)
            colours = palette[(np.array(labels, np.int64) - 1) % len(palette)]
        top = max([int(maps.max()), 0, *labels])  # a crop of the canvas may have lost a label
        table = np.zeros((top + 2, 3), np.uint8)  # the last is void's: black
        table[labels] = colours
        return table[maps]


def source_arguments(cfg) -> list[Source]:
    """How episodes are made from each entry of DATASETS.TRAIN."""
    names, e = list(cfg.DATASETS.TRAIN), cfg.INPUT.EPISODES
    instance_prob = _per_source(e.INSTANCE_PROB, names, "INSTANCE_PROB")
    things_only = _per_source(e.THINGS_ONLY, names, "THINGS_ONLY")
    sources = []
    for k, name in enumerate(names):
        metadata = MetadataCatalog.get(cfg.DATASETS.CLASSES or name)
        classes = len(metadata.get("stuff_classes") or metadata.get("thing_classes") or ()) or 1
        ignore = metadata.get("ignore_label")
        sources.append(Source(instance_prob[k], bool(things_only[k]), 255 if ignore is None else ignore, classes))
    return sources


def _per_source(values: Sequence, names: Sequence[str], key: str) -> list:
    """One value per entry of DATASETS.TRAIN; a single one counts for all."""
    values = list(values)
    if len(values) not in (1, len(names)):
        raise ValueError(
            f"INPUT.EPISODES.{key} has {len(values)} values for {len(names)} entries of DATASETS.TRAIN; "
            "give one for each, or one for all"
        )
    return values * len(names) if len(values) == 1 else values
