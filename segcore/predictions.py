"""What a segmenter found in one picture, as plain arrays, and the classes that it speaks of.

Class index: the position in `Classes.names`, which lists every class, things and
stuff.  All results use it, whatever numbering a benchmark has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

_PIXELS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Classes:
    """The classes of a model.

    Attributes:
        names: by class index.
        colors: (R, G, B), 0..255, by class index.
        things: class indices that are countable.
        category_ids: the data set's number of each class, which result files use.
        instance_numbers: class index of each number that instance predictions use, or
            None where they use the class index itself.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    things: frozenset[int]
    category_ids: tuple[int, ...]
    instance_numbers: Mapping[int, int] | None = None

    @classmethod
    def from_metadata(cls, metadata: Any) -> Classes:
        """From Detectron2's metadata of a data set, or a dict with its fields.

        Without id maps in it, the class index is the category id.

        Raises:
            ValueError: if the metadata names no classes or its fields contradict each other.
        """
        fields = metadata if isinstance(metadata, Mapping) else metadata.as_dict()
        names = tuple(fields.get("stuff_classes") or ())
        if not names:
            raise ValueError(
                f"data set {fields.get('name', '')!r} names no classes (stuff_classes); register it with "
                "segcore.data.register_panoptic, or use weights that carry their classes"
            )
        colors = tuple(tuple(int(v) for v in color) for color in fields.get("stuff_colors") or ())
        if len(colors) != len(names):
            raise ValueError(f"{len(names)} classes but {len(colors)} colours in the metadata's stuff_colors")
        things = fields.get("thing_dataset_id_to_contiguous_id") or {}
        ids = {
            index: id_
            for id_, index in {**(fields.get("stuff_dataset_id_to_contiguous_id") or {}), **things}.items()
        }
        if ids and sorted(ids) != list(range(len(names))):
            raise ValueError(f"the metadata's id maps cover {len(ids)} of {len(names)} classes")
        numbers = fields.get("instance_class_map")
        return cls(
            names=names,
            colors=colors,
            things=frozenset(things.values()),
            category_ids=tuple(ids[i] if ids else i for i in range(len(names))),
            instance_numbers={number: index for index, number in numbers.items()} if numbers else None,
        )

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Segment:
    """One segment of a panoptic result: its id in the map, class index, class name, whether it is a
    thing, its area in pixels, and its box (x0, y0, x1, y1), the last two exclusive."""

    id: int
    class_index: int
    name: str
    isthing: bool
    area: int
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class PanopticResult:
    """ids: (H, W) int32, 0 where nothing was found; segments: one per id in it, ids ascending."""

    ids: np.ndarray
    segments: list[Segment]

    @classmethod
    def from_map(cls, ids: np.ndarray, class_of: Mapping[int, int], classes: Classes) -> PanopticResult:
        """From an id map.

        Args:
            ids: (H, W) integers, 0 = nothing.
            class_of: segment id -> class index; ids without a pixel are left out.

        Raises:
            ValueError: if a pixel has an id that `class_of` lacks.
        """
        present = sorted(set().union(*(np.unique(band).tolist() for _, band in _bands(ids))) - {0})
        lacking = [id_ for id_ in present if id_ not in class_of]
        if lacking:
            raise ValueError(f"the id map has segments {lacking[:5]} that no class is given for")
        boxes, areas = _boxes_and_areas(ids, present)
        segments = []
        for id_, box, area in zip(present, boxes, areas):
            index = class_of[id_]
            segments.append(Segment(id_, index, classes.names[index], index in classes.things, area, box))
        return cls(ids.astype(np.int32, copy=False), segments)


@dataclass(frozen=True)
class InstanceResult:
    """N objects, best first; they may overlap.

    masks: (N, H, W) bool; boxes: (N, 4) float32, x0 y0 x1 y1, pixels; scores: (N,) float32, 0..1;
    class_indices: (N,) int64; names: N class names.
    """

    masks: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    class_indices: np.ndarray
    names: list[str]

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class SemanticResult:
    """labels: (H, W) uint8 (int32 beyond 256 classes) class index of every pixel; names: of the classes."""

    labels: np.ndarray
    names: tuple[str, ...]

    def shares(self) -> dict[int, float]:
        """Class index -> part of the picture (0..1), largest first, of the classes that occur."""
        return shares(self.labels, len(self.names))


@dataclass(frozen=True)
class Prediction:
    """The results of the tasks that were asked; the others are None. `size` is (height, width)."""

    size: tuple[int, int]
    classes: Classes
    panoptic: PanopticResult | None = None
    instance: InstanceResult | None = None
    semantic: SemanticResult | None = None

    @classmethod
    def from_label_map(
        cls, labels: np.ndarray, names: Mapping[int, str], colors: Mapping[int, tuple[int, int, int]]
    ) -> Prediction:
        """A label map as a panoptic result: each label is a class of its own, and one segment of it.

        Args:
            labels: (H, W) integers, 0 = nothing.
            names, colors: of every label that may occur; a label is also its category id.

        Raises:
            ValueError: if a pixel has a label without a name.
        """
        numbers = sorted(names)
        classes = Classes(
            names=tuple(names[n] for n in numbers),
            colors=tuple(colors[n] for n in numbers),
            things=frozenset(range(len(numbers))),
            category_ids=tuple(numbers),
        )
        class_of = {number: index for index, number in enumerate(numbers)}
        return cls(labels.shape, classes, panoptic=PanopticResult.from_map(labels, class_of, classes))


def shares(labels: np.ndarray, count: int) -> dict[int, float]:
    """Value -> part of the picture, largest first, of the values below `count` that occur in `labels`."""
    counts = np.bincount(labels.ravel(), minlength=count)[:count]
    order = np.argsort(-counts, kind="stable")
    return {int(i): float(counts[i] / labels.size) for i in order if counts[i]}


def _boxes_and_areas(
    ids: np.ndarray, present: list[int]
) -> tuple[list[tuple[int, int, int, int]], list[int]]:
    """Tight boxes and pixel counts of the ids, from one pass over the pixels that have one."""
    count = len(present)
    low = np.full((2, count), np.iinfo(np.int64).max)
    high = np.zeros((2, count), np.int64)
    areas = np.zeros(count, np.int64)
    for first_row, band in _bands(ids):
        rows, columns = np.nonzero(band)
        slots = np.searchsorted(present, band[rows, columns])
        for axis, values in enumerate((columns, rows + first_row)):
            np.minimum.at(low[axis], slots, values)
            np.maximum.at(high[axis], slots, values + 1)
        areas += np.bincount(slots, minlength=count)
    boxes = [(int(low[0, i]), int(low[1, i]), int(high[0, i]), int(high[1, i])) for i in range(count)]
    return boxes, areas.tolist()


def _bands(ids: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The first row of each band, and the band: what is made of one takes a few megabytes."""
    step = max(1, _PIXELS_AT_ONCE // max(1, ids.shape[1]))
    for row in range(0, len(ids), step):
        yield row, ids[row : row + step]
