"""Ground truth of a COCO-panoptic data set, read from the metadata's PNG folder and JSON.

All three tasks can be judged by it: panoptic as it stands, instances as its things, semantic as its
categories. One `PanopticGroundTruth` is shared by the evaluators of a data set, so that each PNG is decoded
once.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Collection
from functools import cached_property

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager
from PIL import Image

from .pairs import label_runs, positions

_NEEDED = (
    "panoptic_root",
    "panoptic_json",
    "thing_dataset_id_to_contiguous_id",
    "stuff_dataset_id_to_contiguous_id",
)
_RECENT = 16  # decoded maps kept: the images of a batch, which evaluator after evaluator asks for


class PanopticGroundTruth:
    """Id maps and segments of a registered data set, by image id.

    Args:
        dataset_name: its metadata must name `panoptic_json` and `panoptic_root`, and map category ids with
            `thing_dataset_id_to_contiguous_id` and `stuff_dataset_id_to_contiguous_id`.

    Metadata and files are read on first use, so that one can be made for a data set that may not need it;
    `checked` asks for the metadata at once.

    Raises (on use):
        ValueError: metadata or a field of the JSON is missing, or the JSON has no annotations.
        FileNotFoundError: the JSON does not exist.
    """

    def __init__(self, dataset_name: str):
        self.dataset_name = dataset_name
        self.metadata = MetadataCatalog.get(dataset_name)
        self._recent: OrderedDict[str, np.ndarray] = OrderedDict()

    def checked(self) -> PanopticGroundTruth:
        """Self, after making sure that all needed metadata is there."""
        for field in _NEEDED:
            self._metadata_field(field)
        return self

    @property
    def root(self) -> str:
        return self._metadata_field("panoptic_root")

    @property
    def json_file(self) -> str:
        return self._metadata_field("panoptic_json")

    @property
    def things(self) -> dict[int, int]:
        """Category id of the JSON -> class index, things."""
        return self._metadata_field("thing_dataset_id_to_contiguous_id")

    @property
    def stuff(self) -> dict[int, int]:
        """Category id of the JSON -> class index, stuff (all classes, in data sets of the official kind)."""
        return self._metadata_field("stuff_dataset_id_to_contiguous_id")

    def _metadata_field(self, field: str):
        return required(self.metadata, field, "panoptic ground truth")

    @cached_property
    def _content(self) -> dict:
        if not PathManager.isfile(self.json_file):
            raise FileNotFoundError(
                f"data set '{self.dataset_name}': panoptic annotations {self.json_file} do not exist; "
                "check DETECTRON2_DATASETS and the data set's preparation"
            )
        with PathManager.open(self.json_file, "r") as file:
            content = json.load(file)
        for field in ("annotations", "categories"):
            if not content.get(field):
                raise ValueError(f"{self.json_file} has no {field}; expected COCO panoptic format")
        return content

    @cached_property
    def annotations(self) -> dict[str, dict]:
        """Image id (as a string: COCO's are integers, others' names) -> annotation of the JSON."""
        table = {str(annotation["image_id"]): annotation for annotation in self._content["annotations"]}
        if len(table) != len(self._content["annotations"]):
            raise ValueError(f"{self.json_file} annotates some image ids more than once")
        return table

    @property
    def categories(self) -> list[dict]:
        """The JSON's categories: [{"id", "name", "isthing"}]."""
        return self._content["categories"]

    @cached_property
    def class_index(self) -> dict[int, int]:
        """Category id of the JSON -> class index (into metadata.stuff_classes)."""
        return {**self.things, **self.stuff}

    def annotation(self, image_id) -> dict:
        """The annotation of one image; raises ValueError when the JSON has none."""
        if str(image_id) not in self.annotations:
            raise ValueError(
                f"image_id {image_id!r} is not annotated in {self.json_file} "
                f"({len(self.annotations)} images, e.g. {next(iter(self.annotations))!r})"
            )
        return self.annotations[str(image_id)]

    def ids(self, image_id) -> np.ndarray:
        """(H, W) int32 segment ids of one image, 0 = void. Do not write into it: it is shared."""
        key = str(image_id)
        if key not in self._recent:
            self._recent[key] = read_panoptic_png(self.png_path(image_id))
            if len(self._recent) > _RECENT:
                self._recent.popitem(last=False)
        return self._recent[key]

    def png_path(self, image_id) -> str:
        return os.path.join(self.root, self.annotation(image_id)["file_name"])

    def class_map(self, image_id, ignore_label: int) -> np.ndarray:
        """(H, W) int64 class indices of one image, void as `ignore_label`; crowds count as their category."""
        segments = self.annotation(image_id)["segments_info"]
        ids = self.ids(image_id)
        labels, lengths = label_runs(ids)
        found = positions(labels, np.array([s["id"] for s in segments], dtype=np.int64))
        unknown = np.unique(labels[(found == 0) & (labels != 0)])
        if unknown.size:
            raise ValueError(
                f"{self.png_path(image_id)} shows segment ids {unknown[:10].tolist()} that {self.json_file} "
                "does not list for it"
            )
        classes = np.array([ignore_label] + [self._class_of(s, image_id) for s in segments], dtype=np.int64)
        return np.repeat(classes[found], lengths).reshape(ids.shape)

    def _class_of(self, segment: dict, image_id) -> int:
        category = segment["category_id"]
        if category not in self.class_index:
            raise ValueError(
                f"{self.json_file}: image {image_id!r} has a segment of category {category}, which the "
                f"metadata of '{self.dataset_name}' maps to no class; known are {sorted(self.class_index)}"
            )
        return self.class_index[category]


def required(metadata, field: str, purpose: str):
    """A metadata field, or a ValueError that says which one of which data set is missing, and for what."""
    value = metadata.get(field)
    if value is None:
        raise ValueError(
            f"data set '{metadata.name}' has no metadata '{field}', needed for {purpose}; register it as a "
            "COCO-panoptic data set (segcore.data.register_panoptic) or set the field in "
            "its MetadataCatalog entry"
        )
    return value


def read_panoptic_png(path: str) -> np.ndarray:
    """Decode COCO's id colours: (H, W) int32, id = R + 256 G + 65536 B.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no readable image, or not an 8-bit RGB(A) one.
    """
    if not PathManager.isfile(path):
        raise FileNotFoundError(f"panoptic PNG {path} does not exist, though the annotations name it")
    try:
        with PathManager.open(path, "rb") as file, Image.open(file) as image:
            if image.mode not in ("RGB", "RGBA"):
                raise ValueError(f"panoptic PNG {path} has mode {image.mode}; expected 8-bit RGB id colours")
            rgba = np.asarray(image.convert("RGBA"))
    except (OSError, SyntaxError) as error:  # both are Pillow's ways to say "broken file"
        raise ValueError(f"panoptic PNG {path} cannot be decoded: {error}") from error
    # One little-endian word per pixel; the top byte is alpha.
    return (rgba.view("<u4")[..., 0] & 0xFFFFFF).astype(np.int32)


def write_panoptic_png(path: str, ids: np.ndarray) -> None:
    """Write an (H, W) id map as COCO's id colours. Raises ValueError for ids outside [0, 2**24)."""
    if ids.min() < 0 or ids.max() >= 2**24:
        raise ValueError(f"{path}: segment ids must be in [0, 2**24), got {ids.min()} to {ids.max()}")
    channels = ids.astype("<u4")[..., None].view(np.uint8)[..., :3]
    save_png(path, np.ascontiguousarray(channels))


def save_png(path: str, array: np.ndarray) -> None:
    """Write a PNG through a rename, so that a killed run leaves no half file."""
    partial = f"{path}.part{os.getpid()}"
    Image.fromarray(array).save(partial, format="PNG")
    os.replace(partial, path)


def save_text(path: str, text: str) -> None:
    """Write a text file through a rename."""
    partial = f"{path}.part{os.getpid()}"
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(partial, path)


def check_complete(processed: Collection[str], expected: Collection[str], dataset_name: str) -> None:
    """Raise ValueError unless every expected image was evaluated: one left out would change the score."""
    missing = sorted(set(expected) - set(processed))
    if missing:
        raise ValueError(
            f"data set '{dataset_name}': {len(missing)} of {len(expected)} images were not evaluated, "
            f"e.g. {missing[:5]}; run the model on the whole data set"
        )
