"""Store `mini` on disk in COCO panoptic format, once, all or nothing."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import numpy as np
from iopath.common.file_io import file_lock
from PIL import Image
from tqdm import tqdm

from ..metadata import panoptic_metadata
from ..panoptic_folder import PanopticFolder
from .scene import CATEGORIES, HEIGHT, WIDTH, draw_scene

# Raise it with every change of the drawing: sets of another version are drawn anew.
VERSION = 3
SCENES = {"train": 600, "val": 60}
NAME = "mini_panoptic"
_STAMP = "version.json"
_SPLIT_SEEDS = {"train": 0, "val": 1}


def mini_metadata() -> dict:
    """The metadata of both splits, besides the paths."""
    return panoptic_metadata(CATEGORIES)


def mini_folder(root: str, split: str) -> PanopticFolder:
    """Where a split ("train" or "val") lies under `root`."""
    base = os.path.join(root, NAME)
    return PanopticFolder(
        image_root=os.path.join(base, split),
        panoptic_root=os.path.join(base, f"panoptic_{split}"),
        panoptic_json=os.path.join(base, f"panoptic_{split}.json"),
    )


def ensure_mini(root: str, scenes: dict[str, int] | None = None) -> None:
    """Draw the set into `root`/mini_panoptic unless it is there, complete and of this version.

    The folder appears by a rename when everything is written, so that a stopped
    run leaves nothing half done.  Of several processes one draws, the others wait.

    Args:
        root: the folder of the data sets; made if it does not exist.
        scenes: how many scenes per split; None: `SCENES`.

    Raises:
        PermissionError: `root` cannot be written.
    """
    stamp = {"version": VERSION, "scenes": scenes or SCENES}
    target = Path(root) / NAME
    if _stamp_of(target) == stamp:
        return
    try:
        os.makedirs(root, exist_ok=True)
        with file_lock(str(target)):
            if _stamp_of(target) != stamp:
                _replace(target, stamp)
    except PermissionError as error:
        raise PermissionError(
            f"the embedded data set has to be drawn into {target}, but {error.filename or root} cannot be "
            f"written; set DETECTRON2_DATASETS to a folder that can"
        ) from error


def _stamp_of(target: Path) -> dict | None:
    path = target / _STAMP
    return json.loads(path.read_text()) if path.is_file() else None


def _replace(target: Path, stamp: dict) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=target.parent) as parent:
        fresh = Path(parent) / "new"
        fresh.mkdir()
        with tqdm(total=sum(stamp["scenes"].values()), desc=f"drawing {target}", unit="scene", mininterval=1) as bar:
            for split, count in stamp["scenes"].items():
                _write_split(fresh, split, count, bar)
        (fresh / _STAMP).write_text(json.dumps(stamp))
        if target.exists():
            target.rename(Path(parent) / "old")  # goes with the temporary folder
        fresh.rename(target)


def _write_split(base: Path, split: str, count: int, bar: tqdm) -> None:
    folder = mini_folder("", split)
    image_root, panoptic_root, panoptic_json = (
        base / Path(path).relative_to(NAME) for path in (folder.image_root, folder.panoptic_root, folder.panoptic_json)
    )
    image_root.mkdir()
    panoptic_root.mkdir()
    images, annotations = [], []
    for number in range(count):
        scene = draw_scene(VERSION, _SPLIT_SEEDS[split], number)
        name = f"{number:04d}.png"
        # Lightly compressed: the grain does not shrink, and writing is the slow part.
        Image.fromarray(scene.image).save(image_root / name, compress_level=1)
        ids = np.stack([scene.ids & 255, scene.ids >> 8 & 255, scene.ids >> 16], -1)
        Image.fromarray(ids.astype(np.uint8)).save(panoptic_root / name)
        images.append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
        annotations.append({"image_id": number, "file_name": name, "segments_info": scene.segments})
        bar.update()
    content = {
        "info": {"description": "scenes drawn by segcore.data.mini", "version": VERSION},
        "images": images,
        "annotations": annotations,
        "categories": list(CATEGORIES),
    }
    panoptic_json.write_text(json.dumps(content))
