"""Store a data set that the package draws itself: on disk in COCO panoptic format, once, all or nothing."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from iopath.common.file_io import file_lock
from PIL import Image
from tqdm import tqdm

from .panoptic_folder import PanopticFolder

_STAMP = "version.json"


class Scene(NamedTuple):
    """`image` (H, W, 3) uint8 RGB; `ids` (H, W) int32 segment ids, 0 void; `segments` as in COCO panoptic."""

    image: np.ndarray
    ids: np.ndarray
    segments: list[dict]


class DrawnSet(NamedTuple):
    """What `ensure_drawn` needs to know of a set.

    Attributes:
        name: of its folder.
        version: raised with every change of the drawing; a set of another version is drawn anew.
        categories: COCO panoptic categories.
        scenes: how many there are per split.
        draw: (split, number) -> the scene; equal arguments give equal scenes.
        description: goes into the annotation files.
    """

    name: str
    version: int
    categories: Sequence[dict]
    scenes: Mapping[str, int]
    draw: Callable[[str, int], Scene]
    description: str

    def folder(self, root: str, split: str) -> PanopticFolder:
        """Where a split lies under `root`."""
        base = os.path.join(root, self.name)
        return PanopticFolder(
            image_root=os.path.join(base, split),
            panoptic_root=os.path.join(base, f"panoptic_{split}"),
            panoptic_json=os.path.join(base, f"panoptic_{split}.json"),
        )


def ensure_drawn(root: str, drawn: DrawnSet) -> None:
    """Draw a set into `root` unless it is there, complete and of this version.

    The folder appears by a rename when everything is written, so that a stopped run leaves nothing half
    done. Of several processes one draws, the others wait.

    Args:
        root: the folder of the data sets; made if it does not exist.

    Raises:
        PermissionError: `root` cannot be written.
    """
    stamp = {"version": drawn.version, "scenes": dict(drawn.scenes)}
    target = Path(root) / drawn.name
    if _stamp_of(target) == stamp:
        return
    try:
        os.makedirs(root, exist_ok=True)
        with file_lock(str(target)):
            if _stamp_of(target) != stamp:
                _replace(target, drawn, stamp)
    except PermissionError as error:
        raise PermissionError(
            f"the embedded data set has to be drawn into {target}, but {error.filename or root} cannot be "
            f"written; set DETECTRON2_DATASETS to a folder that can"
        ) from error


def _stamp_of(target: Path) -> dict | None:
    path = target / _STAMP
    return json.loads(path.read_text()) if path.is_file() else None


def _replace(target: Path, drawn: DrawnSet, stamp: dict) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{drawn.name}-", dir=target.parent) as parent:
        fresh = Path(parent) / "new"
        fresh.mkdir()
        with tqdm(
            total=sum(drawn.scenes.values()), desc=f"drawing {target}", unit="scene", mininterval=1
        ) as bar:
            for split in drawn.scenes:
                _write_split(fresh, drawn, split, bar)
        (fresh / _STAMP).write_text(json.dumps(stamp))
        if target.exists():
            target.rename(Path(parent) / "old")  # goes with the temporary folder
        fresh.rename(target)


def _write_split(base: Path, drawn: DrawnSet, split: str, bar: tqdm) -> None:
    folder = drawn.folder("", split)
    image_root, panoptic_root, panoptic_json = (
        base / Path(path).relative_to(drawn.name)
        for path in (folder.image_root, folder.panoptic_root, folder.panoptic_json)
    )
    image_root.mkdir()
    panoptic_root.mkdir()
    images, annotations = [], []
    for number in range(drawn.scenes[split]):
        scene = drawn.draw(split, number)
        name = f"{number:04d}.png"
        # Lightly compressed: the grain does not shrink, and writing is the slow part.
        Image.fromarray(scene.image).save(image_root / name, compress_level=1)
        ids = np.stack([scene.ids & 255, scene.ids >> 8 & 255, scene.ids >> 16], -1)
        Image.fromarray(ids.astype(np.uint8)).save(panoptic_root / name)
        height, width = scene.ids.shape
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        annotations.append({"image_id": number, "file_name": name, "segments_info": scene.segments})
        bar.update()
    content = {
        "info": {"description": drawn.description, "version": drawn.version},
        "images": images,
        "annotations": annotations,
        "categories": list(drawn.categories),
    }
    panoptic_json.write_text(json.dumps(content))


def number_segments(
    rng: np.random.Generator, ids: np.ndarray, segments: Mapping[int, dict], min_pixels: int
) -> tuple[np.ndarray, list[dict]]:
    """Give the segments that can be seen new ids, spread over 24 bits, and describe them.

    Args:
        ids: (H, W) small numbers, 0 = void.
        segments: number (1 to their count) -> facts of a COCO panoptic segment.
        min_pixels: what shows less of itself is void.

    Returns:
        ids (H, W) int32 and the segments with id, area and bbox, as a `Scene` has them.
    """
    final = np.zeros_like(ids)
    described = []
    count = len(segments)
    new_ids = (np.arange(count) << 17) + rng.integers(1, 1 << 17, count)  # all different
    for segment, facts in segments.items():
        mask = ids == segment
        area = int(mask.sum())
        if area < min_pixels:
            continue
        new_id = int(new_ids[segment - 1])
        final[mask] = new_id
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        bbox = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        described.append({"id": new_id, **facts, "area": area, "bbox": [int(b) for b in bbox]})
    return final, described
