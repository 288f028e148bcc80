"""Saved predictions packed as COCO's evaluation server takes them.

    panoptic_SPLIT_METHOD_results.zip      panoptic_SPLIT_METHOD_results.json and a folder of PNGs of that name
    detections_SPLIT_METHOD_results.zip    detections_SPLIT_METHOD_results.json

The other benchmarks take folders as the evaluators write them.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections import OrderedDict

from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluators
from detectron2.utils import comm

PANOPTIC_JSON = "panoptic_predictions.json"
PANOPTIC_FOLDER = "panoptic"
INSTANCE_JSON = "coco_instances_results.json"


def folder_to_save_in(output_dir: str | None, save_predictions: bool) -> str | None:
    """Where an evaluator saves predictions; None if it is not to. Raises ValueError if it is and has no folder."""
    if save_predictions and output_dir is None:
        raise ValueError("save_predictions=True needs an output_dir to write to")
    return output_dir if save_predictions else None


class PackedEvaluators(DatasetEvaluators):
    """Evaluators that save predictions; what they saved is packed after the evaluation.

    Args:
        evaluators: of one data set.
        dataset_name: where its metadata has `submission_split` (val2017, test-dev2017), zips are written.
        output_dir: where the evaluators save.
        method: what the names of the files call the model.
    """

    def __init__(self, evaluators: list, dataset_name: str, output_dir: str, method: str):
        super().__init__(evaluators)
        self._split = MetadataCatalog.get(dataset_name).get("submission_split", None)
        self._output_dir, self._method = output_dir, method

    def evaluate(self) -> OrderedDict:
        results = super().evaluate()
        if self._split and comm.is_main_process():
            pack_coco(self._output_dir, self._split, self._method)
        return results


def pack_coco(folder: str, split: str, method: str) -> list[str]:
    """Write the zips for what was saved in `folder`; returns their paths.

    Raises:
        FileNotFoundError: a PNG that the predictions name is not there: processes without a common disk.
    """
    made = []
    panoptic = os.path.join(folder, PANOPTIC_JSON)
    if os.path.isfile(panoptic):
        name = f"panoptic_{split}_{method}_results"
        with open(panoptic, encoding="utf-8") as file:
            pngs = [annotation["file_name"] for annotation in json.load(file)["annotations"]]
        paths = {f"{name}/{png}": os.path.join(folder, PANOPTIC_FOLDER, png) for png in pngs}
        made.append(_pack(os.path.join(folder, f"{name}.zip"), {f"{name}.json": panoptic, **paths}))
    instances = os.path.join(folder, INSTANCE_JSON)
    if os.path.isfile(instances):
        name = f"detections_{split}_{method}_results"
        made.append(_pack(os.path.join(folder, f"{name}.zip"), {f"{name}.json": instances}))
    return made


def _pack(path: str, content: dict[str, str]) -> str:
    missing = [source for source in content.values() if not os.path.isfile(source)]
    if missing:
        raise FileNotFoundError(
            f"{path} cannot be packed: {missing[0]} is not here ({len(missing)} of {len(content)} files); saving "
            "predictions from several machines needs an OUTPUT_DIR that they share"
        )
    with zipfile.ZipFile(f"{path}.part", "w") as archive:
        for name, source in content.items():
            compressed = zipfile.ZIP_STORED if name.endswith(".png") else zipfile.ZIP_DEFLATED
            archive.write(source, name, compressed)
    os.replace(f"{path}.part", path)
    return path
