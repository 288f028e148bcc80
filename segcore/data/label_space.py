"""The classes of a run: those of all its data sets, united by name.

Two classes are one if their names are equal up to case and spaces.  A class is a
thing if a set with panoptic or instance labels says so; label PNGs say nothing
about it, and a class that only they have is stuff.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import torch
from detectron2.data import MetadataCatalog
from torch import nn

from .metadata import TASKS, panoptic_metadata


def unite_classes(names: Sequence[str]) -> str:
    """Register the united classes of registered data sets; returns the name of their metadata.

    The name is a function of the classes, so repeating a call, in this process or another, changes nothing.

    Raises:
        ValueError: no data set, one without classes, or two that disagree whether a class is a thing.
    """
    if not names:
        raise ValueError("there is no data set whose classes the run could have")
    united: dict[str, dict] = {}
    said_by: dict[str, str] = {}
    for name in names:
        for category, says in _classes(name):
            key = _key(category["name"])
            known = united.setdefault(key, {**category, "id": len(united) + 1})
            if not says:
                continue
            if key in said_by and known["isthing"] != category["isthing"]:
                thing, stuff = (said_by[key], name) if known["isthing"] else (name, said_by[key])
                raise ValueError(
                    f"class {category['name']!r} is a thing in {thing} and stuff in {stuff}; call it differently "
                    f"in one of them (rename: {{{category['name']}: ...}})"
                )
            said_by[key] = name
            known["isthing"] = category["isthing"]
    fields = panoptic_metadata(list(united.values()))
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]
    MetadataCatalog.get(f"classes_{digest}").set(**fields)
    return f"classes_{digest}"


def class_places(dataset_name: str, run_name: str) -> list[int]:
    """For each class index of a data set, its class index in the run.

    Raises:
        ValueError: the run has no such class.
    """
    places = {_key(name): i for i, name in enumerate(MetadataCatalog.get(run_name).stuff_classes)}
    names = MetadataCatalog.get(dataset_name).stuff_classes
    unknown = [name for name in names if _key(name) not in places]
    if unknown:
        raise ValueError(
            f"{dataset_name} has the class {unknown[0]!r}, which none of the training sets has; those have "
            f"{', '.join(MetadataCatalog.get(run_name).stuff_classes)}. See rename in docs/custom_data.md"
        )
    return [places[_key(name)] for name in names]


def label_tasks(dataset_name: str) -> tuple[str, ...]:
    """The tasks that the labels of a registered data set can train and measure."""
    return tuple(MetadataCatalog.get(dataset_name).get("tasks", None) or TASKS)


class WithClassesOf(nn.Module):
    """A model of the run's classes whose results speak of one data set's classes alone.

    Semantic scores of other classes are left out, so that a pixel gets the best class that the data set has;
    panoptic segments of other classes become void, instances of other classes are dropped.

    Args:
        model: returns Detectron2's output dicts, with the run's class indices.
        places: of `class_places`.
        things: class indices of the data set that are things.
    """

    def __init__(self, model: nn.Module, places: Sequence[int], things: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.places = list(places)
        self.things = frozenset(things)
        self.class_of = {place: index for index, place in enumerate(places)}

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        return [self._translate(output) for output in self.model(batched_inputs)]

    def _translate(self, output: dict) -> dict:
        output = dict(output)
        if "sem_seg" in output:
            output["sem_seg"] = self._semantic(output["sem_seg"])
        if "panoptic_seg" in output:
            output["panoptic_seg"] = self._panoptic(*output["panoptic_seg"])
        if "instances" in output:
            found = output["instances"]
            classes = torch.tensor([self.class_of.get(c, -1) for c in found.pred_classes.tolist()], dtype=torch.int64)
            kept = (classes >= 0).to(found.pred_classes.device)
            output["instances"] = found[kept]
            output["instances"].pred_classes = classes[classes >= 0].to(found.pred_classes.device)
        return output

    def _semantic(self, scores: torch.Tensor) -> torch.Tensor:
        if scores.dim() != 3:
            raise ValueError(
                f"semantic results of shape {tuple(scores.shape)} are labels; a data set with other classes than "
                "the run's is measured on scores (classes, height, width)"
            )
        return scores[torch.tensor(self.places, device=scores.device)]

    def _panoptic(self, ids: torch.Tensor, segments: list[dict]) -> tuple[torch.Tensor, list[dict]]:
        foreign = [segment["id"] for segment in segments if segment["category_id"] not in self.class_of]
        if foreign:
            ids = ids.masked_fill(torch.isin(ids, torch.tensor(foreign, dtype=ids.dtype, device=ids.device)), 0)
        kept = []
        for segment in segments:
            if segment["id"] not in foreign:
                index = self.class_of[segment["category_id"]]
                kept.append({**segment, "category_id": index, "isthing": index in self.things})
        return ids, kept


def speaking_of(model: nn.Module, dataset_name: str, run_name: str) -> nn.Module:
    """The model itself if the data set has the run's classes in the run's order, else with its results translated."""
    places = class_places(dataset_name, run_name)
    metadata = MetadataCatalog.get(dataset_name)
    if places == list(range(len(MetadataCatalog.get(run_name).stuff_classes))):
        return model
    return WithClassesOf(model, places, list(metadata.thing_dataset_id_to_contiguous_id.values()))


def _classes(dataset_name: str) -> list[tuple[dict, bool]]:
    """Each class as a category, and whether the set's labels can say what is a thing."""
    metadata = MetadataCatalog.get(dataset_name)
    if "stuff_classes" not in metadata.as_dict():
        raise ValueError(
            f"data set {dataset_name!r} has no metadata; register it with segcore.data.register_panoptic, "
            "register_semantic or register_instances, or describe it in DATASETS.CUSTOM"
        )
    says = label_tasks(dataset_name) != ("semantic",)
    things = set(metadata.thing_dataset_id_to_contiguous_id.values())
    return [
        ({"name": name, "isthing": int(i in things), "color": list(color)}, says)
        for i, (name, color) in enumerate(zip(metadata.stuff_classes, metadata.stuff_colors))
    ]


def _key(name: str) -> str:
    return " ".join(name.lower().split())
