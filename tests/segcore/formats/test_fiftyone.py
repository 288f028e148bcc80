"""FiftyOne's own readers get the masks back; they need no database, its datasets would."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from segcore.results import ResultWriter
from tests.pictures import CLASSES, prediction

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("fiftyone") is None, reason="fiftyone is not installed (pip install fiftyone)")

# In a process of its own: importing FiftyOne looks for its database unless the environment says otherwise.
READ = """
import json, sys
import numpy as np
import fiftyone.core.labels as labels
import fiftyone.utils.coco as coco
folder, size = sys.argv[1], json.loads(sys.argv[2])
info, classes, _, images, objects = coco.load_coco_detection_annotations(f"{folder}/instances.json")
found = []
(image,) = images.values()
for each in objects[image["id"]]:
    detection = each.to_detection((image["width"], image["height"]), classes, load_segmentation=True)
    mask = np.zeros(size, bool)
    x, y = (round(side * length) for side, length in zip(detection.bounding_box[:2], reversed(size)))
    part = np.asarray(detection.mask, bool)
    mask[y:y + part.shape[0], x:x + part.shape[1]] = part
    found.append((detection.label, each.score, mask))
np.savez(f"{folder}/read.npz", masks=[mask for _, _, mask in found], scores=[score for _, score, _ in found],
         labels=[label for label, _, _ in found],
         semantic=labels.Segmentation(mask_path=f"{folder}/semantic/street.png").get_mask())
"""
WITHOUT_DATABASE = {"FIFTYONE_DATABASE_URI": "mongodb://127.0.0.1:1/", "FIFTYONE_DATABASE_VALIDATION": "false",
                    "FIFTYONE_DATABASE_ADMIN": "false", "FIFTYONE_DO_NOT_TRACK": "true"}


def test_instances_and_label_maps(tmp_path: Path):
    found = prediction(3)
    with ResultWriter(tmp_path, CLASSES) as writer:
        writer.add("street", "photos/street.jpg", found)
    command = [sys.executable, "-c", READ, str(tmp_path), json.dumps(found.size)]
    done = subprocess.run(command, env={**os.environ, **WITHOUT_DATABASE}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read = np.load(tmp_path / "read.npz")
    assert np.array_equal(read["masks"], np.asarray(found.instance.masks))
    assert np.allclose(read["scores"], found.instance.scores, atol=1e-5)
    assert list(read["labels"]) == found.instance.names
    # It shows a palette PNG's colours, which its mask_targets name.
    assert np.array_equal(read["semantic"], np.array(CLASSES.colors)[found.semantic.labels])
