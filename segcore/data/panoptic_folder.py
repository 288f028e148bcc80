"""A COCO panoptic folder: images, panoptic PNGs and one JSON, read into Detectron2's dataset dicts."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from .metadata import class_index_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PanopticFolder:
    """Where the parts of one split lie; the fields also become metadata.

    Attributes:
        image_root, panoptic_root, panoptic_json: the images, the panoptic PNGs, the annotation file.
        sem_seg_root: label PNGs whose values are class indices; used where the folder exists.
        json_file: COCO instance annotations, for the evaluators that ask for them.
        gt_dir: Cityscapes' own annotation folder, for its own evaluators.
        image_name: path under `image_root` of one record of the JSON's "images";
            None takes its `file_name`.
    """

    image_root: str
    panoptic_root: str
    panoptic_json: str
    sem_seg_root: str | None = None
    json_file: str | None = None
    gt_dir: str | None = None
    image_name: Callable[[dict], str] | None = None

    def paths(self) -> dict[str, str]:
        """The fields that are given and are paths, by name."""
        return {k: v for k, v in asdict(self).items() if v is not None and k != "image_name"}

    def load(self, metadata, problems: list[str] | None = None) -> list[dict]:
        """The dataset dicts; see `load_panoptic_folder`."""
        things = set(metadata.thing_dataset_id_to_contiguous_id.values())
        return load_panoptic_folder(self, class_index_of(metadata), things, problems)


def load_panoptic_folder(
    folder: PanopticFolder,
    class_index: dict[int, int],
    thing_ids: set[int],
    problems: list[str] | None = None,
) -> list[dict]:
    """One dict per annotated image, `category_id` turned into class indices.

    Args:
        folder: where the data lies.
        class_index: category id -> class index, of every class.
        thing_ids: the class indices of the things.
        problems: takes a line for each image that is wrong and left out; None raises for the first.

    Returns:
        dicts with file_name, image_id, height, width, pan_seg_file_name,
        segments_info ({id, category_id (class index), iscrowd, isthing, ...}) and,
        where label PNGs exist, sem_seg_file_name.

    Raises:
        FileNotFoundError: the JSON, or an image or PNG that it names, does not exist.
        ValueError: the JSON cannot be read, has no annotations, or names a category
            or an image that it does not list.
    """
    content = read_panoptic_json(folder.panoptic_json)
    images = {image["id"]: image for image in content["images"]}
    has_labels = folder.sem_seg_root is not None and os.path.isdir(folder.sem_seg_root)
    records = []
    for annotation in content["annotations"]:
        try:
            image = _image_of(annotation, images, folder.panoptic_json)
            segments = _segments(annotation, class_index, thing_ids, folder.panoptic_json)
        except ValueError as error:
            report(error, problems)
            continue
        name = folder.image_name(image) if folder.image_name else image["file_name"]
        record = {
            "file_name": os.path.join(folder.image_root, name),
            "image_id": annotation["image_id"],
            "pan_seg_file_name": os.path.join(folder.panoptic_root, annotation["file_name"]),
            "segments_info": segments,
        }
        record.update({side: image[side] for side in ("height", "width") if side in image})
        if has_labels:
            record["sem_seg_file_name"] = os.path.join(folder.sem_seg_root, annotation["file_name"])
        records.append(record)
    keys = ("file_name", "pan_seg_file_name", "sem_seg_file_name")
    records = with_files(records, keys, folder.panoptic_json, problems)
    logger.info("%d images from %s", len(records), folder.panoptic_json)
    return records


def read_panoptic_json(path: str) -> dict:
    """The parsed annotation file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON, or without "images" and "annotations", or with no annotation at all.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"panoptic annotation file {path} does not exist; set DETECTRON2_DATASETS to the folder that "
            f"holds the data sets, or prepare this one (datasets/README.md)"
        )
    with open(path, encoding="utf-8") as file:
        try:
            content = json.load(file)
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON ({error}); write or download it again") from error
    lacking = {"images", "annotations"} - set(content) if isinstance(content, dict) else {"images", "annotations"}
    if lacking:
        raise ValueError(f"{path} is no COCO panoptic file: it has no {' and no '.join(sorted(lacking))}")
    if not content["annotations"]:
        raise ValueError(
            f"{path} holds no annotations ({len(content['images'])} images); nothing can be trained on or "
            f"evaluated. Annotate it, or remove it from DATASETS"
        )
    return content


def _image_of(annotation: dict, images: dict, json_path: str) -> dict:
    try:
        return images[annotation["image_id"]]
    except KeyError as error:
        raise ValueError(
            f"{json_path}: the annotation {annotation.get('file_name')} belongs to image "
            f"{annotation.get('image_id')!r}, which is not among its {len(images)} images"
        ) from error


def _segments(annotation: dict, class_index: dict[int, int], thing_ids: set[int], json_path: str) -> list[dict]:
    segments = []
    for segment in annotation["segments_info"]:
        if segment["category_id"] not in class_index:
            raise ValueError(
                f"{json_path}: segment {segment['id']} of {annotation['file_name']} has category "
                f"{segment['category_id']}, which is not one of the data set's {len(class_index)} categories"
            )
        index = class_index[segment["category_id"]]
        segments.append({"iscrowd": 0, **segment, "category_id": index, "isthing": index in thing_ids})
    return segments


def with_files(records: list[dict], keys: Iterable[str], named_by: str, problems: list[str] | None) -> list[dict]:
    """The records whose files, under `keys`, exist.

    Each folder is listed once: asking the disk file by file takes minutes on network storage.

    Raises:
        FileNotFoundError: some are missing and `problems` is None.
    """
    listed: dict[str, set[str]] = {}
    bad: set[int] = set()
    for key in keys:
        paths = [(number, record[key]) for number, record in enumerate(records) if key in record]
        missing = [(number, path) for number, path in paths if not _is_listed(path, listed)]
        if missing and problems is None:
            raise FileNotFoundError(
                f"{named_by} names {missing[0][1]}, which does not exist ({len(missing)} of {len(paths)} such files "
                "are missing); restore the files or remove their entries"
            )
        for number, path in missing:
            report(FileNotFoundError(f"{named_by} names {path}, which does not exist"), problems)
            bad.add(number)
    return [record for number, record in enumerate(records) if number not in bad]


def _is_listed(path: str, listed: dict[str, set[str]]) -> bool:
    folder, name = os.path.split(path)
    if folder not in listed:
        listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
    return name in listed[folder]


def report(error: Exception, problems: list[str] | None) -> None:
    """Raise `error`, or where problems are collected, add its message to them."""
    if problems is None:
        raise error
    problems.append(str(error))
