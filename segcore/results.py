"""Result files in standard formats: COCO panoptic, COCO instances with RLE, label maps with a palette.

    FOLDER/panoptic.json, FOLDER/panoptic/NAME.png   COCO panoptic: id = R + 256 G + 65536 B
    FOLDER/instances.json                            COCO objects with RLE masks and scores
    FOLDER/semantic.json, FOLDER/semantic/NAME.png   class indices as 8-bit palette PNG, and the class list
    FOLDER/FORMAT/TASK/NAME.*                        what else was asked for, see segcore/formats

A file is there whole or not at all; the JSON files are written when the run ends.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from segcore.checkpoint.files import atomic_path
from segcore.evaluation.ground_truth import write_panoptic_png
from segcore.evaluation.results import write_json
from segcore.formats import check_formats, write_formats
from segcore.predictions import Classes, InstanceResult, PanopticResult, Prediction, SemanticResult

_LARGEST_PALETTE = 256


class ResultWriter:
    """Collects the results of one run under one folder.

    >>> with ResultWriter("output", predictor.classes) as writer:
    ...     writer.add("street", "photos/street.jpg", prediction)
    """

    def __init__(self, folder: str | os.PathLike, classes: Classes, formats: Sequence[str] = ()) -> None:
        """
        Args:
            folder: made when the first result is added.
            classes: of every prediction that will be added.
            formats: keys of `segcore.formats.FORMATS`, written besides.

        Raises:
            ValueError: for an unknown format.
        """
        self.folder = Path(folder)
        self.classes = classes
        self.formats = check_formats(formats)
        self._images: list[dict[str, Any]] = []
        self._panoptic: list[dict[str, Any]] = []
        self._instances: list[dict[str, Any]] = []
        self._semantic: list[dict[str, Any]] = []
        self._tasks: set[str] = set()

    def __enter__(self) -> ResultWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        # Also after an error or Ctrl-C: the JSON then lists exactly the pictures that were finished.
        self.close()

    def add(self, name: str, file_name: str, prediction: Prediction) -> list[Path]:
        """Write the PNGs of one picture and remember what the JSON files will say of it.

        Args:
            name: of the picture's files, without extension; may have folders in it.
            file_name: what the JSON files call the picture.
            prediction: results of any of the tasks.

        Returns:
            The files that were written.

        Raises:
            ValueError: if `name` was used before, or a format cannot hold the classes.
        """
        if any(image["name"] == name for image in self._images):
            raise ValueError(f"the name {name!r} is taken by another picture of this run")
        height, width = prediction.size
        image_id = len(self._images) + 1
        # First what may refuse the classes: nothing is remembered then.
        written = write_formats(self.folder, name, file_name, prediction, self.formats)
        if prediction.panoptic is not None:
            self._tasks.add("panoptic")
            written.append(self._add_panoptic(name, image_id, prediction.panoptic))
        if prediction.instance is not None:
            self._tasks.add("instance")
            self._add_instances(image_id, prediction.instance)
        if prediction.semantic is not None:
            self._tasks.add("semantic")
            written.append(self._add_semantic(name, image_id, prediction.semantic))
        self._images.append(
            {"id": image_id, "file_name": file_name, "height": height, "width": width, "name": name}
        )
        return written

    def close(self) -> list[Path]:
        """Write the JSON files of the tasks that were added; none if nothing was. Returns their paths."""
        images = [{key: value for key, value in image.items() if key != "name"} for image in self._images]
        documents = {
            "panoptic": ("panoptic.json", {"annotations": self._panoptic, "categories": self._categories()}),
            "instance": (
                "instances.json",
                {"annotations": self._instances, "categories": self._categories(things_only=True)},
            ),
            "semantic": ("semantic.json", {"annotations": self._semantic, "classes": self._class_list()}),
        }
        paths = []
        for task, (name, content) in documents.items():
            if task in self._tasks:
                path = self.folder / name
                write_json(str(path), {"images": images, **content})
                paths.append(path)
        return paths

    def _add_panoptic(self, name: str, image_id: int, result: PanopticResult) -> Path:
        path = self._png("panoptic", name)
        write_panoptic_png(str(path), result.ids)
        segments = []
        for segment in result.segments:
            x0, y0, x1, y1 = segment.box
            segments.append(
                {
                    "id": segment.id,
                    "category_id": self.classes.category_ids[segment.class_index],
                    "area": segment.area,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "iscrowd": 0,
                }
            )
        self._panoptic.append({"image_id": image_id, "file_name": f"{name}.png", "segments_info": segments})
        return path

    def _add_instances(self, image_id: int, result: InstanceResult) -> None:
        for i, mask in enumerate(result.masks):
            # In the order that the encoder wants, one by one: a mask of a large photograph is 24 MB.
            code = rle.encode(np.asfortranarray(mask, np.uint8))
            x0, y0, x1, y1 = (round(float(v), 2) for v in result.boxes[i])
            self._instances.append(
                {
                    "id": len(self._instances) + 1,
                    "image_id": image_id,
                    "category_id": self.classes.category_ids[result.class_indices[i]],
                    "segmentation": {"size": code["size"], "counts": code["counts"].decode("ascii")},
                    "area": int(rle.area(code)),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "iscrowd": 0,
                    "score": float(result.scores[i]),
                }
            )

    def _add_semantic(self, name: str, image_id: int, result: SemanticResult) -> Path:
        path = self._png("semantic", name)
        write_label_png(path, result.labels, self.classes)
        present = {self.classes.names[index]: share for index, share in result.shares().items()}
        self._semantic.append({"image_id": image_id, "file_name": f"{name}.png", "shares": present})
        return path

    def _png(self, kind: str, name: str) -> Path:
        path = self.folder / kind / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _categories(self, things_only: bool = False) -> list[dict[str, Any]]:
        classes = self.classes
        return [
            {
                "id": classes.category_ids[index],
                "name": name,
                "isthing": int(index in classes.things),
                "color": list(classes.colors[index]),
            }
            for index, name in enumerate(classes.names)
            if index in classes.things or not things_only
        ]

    def _class_list(self) -> list[dict[str, Any]]:
        """The meaning of the values in the label PNGs."""
        return [
            {"value": index, "name": name, "color": list(color), "category_id": category}
            for index, (name, color, category) in enumerate(
                zip(self.classes.names, self.classes.colors, self.classes.category_ids, strict=True)
            )
        ]


def write_label_png(path: str | os.PathLike, labels: np.ndarray, classes: Classes) -> None:
    """Write (H, W) class indices as an 8-bit palette PNG, whole or not at all.

    Raises:
        ValueError: for more classes than a palette holds.
    """
    if len(classes) > _LARGEST_PALETTE:
        raise ValueError(f"a palette PNG holds {_LARGEST_PALETTE} classes, the model has {len(classes)}")
    picture = Image.fromarray(np.ascontiguousarray(labels, np.uint8))
    picture = picture.convert("L")
    picture.putpalette([value for color in classes.colors for value in color])
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")


def write_picture(path: str | os.PathLike, picture: np.ndarray) -> None:
    """Write an (H, W, 3) uint8 RGB picture as JPEG (or PNG, by the extension), whole or not at all."""
    with atomic_path(path) as temporary:
        if os.fspath(path).endswith(".png"):
            Image.fromarray(picture).save(temporary, format="PNG")
        else:
            # 4:4:4: thin coloured borders and small print bleed with subsampled colour.
            Image.fromarray(picture).save(temporary, format="JPEG", quality=92, subsampling=0)
