"""The published few-shot benchmarks as registered data sets: PASCAL-5i, COCO-20i, FSS-1000.

Under $DETECTRON2_DATASETS, with HSNet's split lists (data/splits of github.com/juhongm999/hsnet):

    voc/JPEGImages/  voc/SegmentationClassAug/  voc/pascal5i/val/fold{0..3}.txt           NAME__CC, CC = 1..20
    coco/val2014/  coco/annotations/instances_val2014.json  coco/coco20i/val/fold{0..3}.pkl   class -> files
    fss1000/CLASS/N.{jpg,png}  fss1000/test.txt                                               a class a line

`pascal5i_fold0` asks for five classes in a row, `coco20i_fold0` for every fourth of COCO's eighty; `pascal5i` and
`coco20i` are all four folds and give their mean. `fss1000_test` asks for the 240 classes of its list.
COCO's masks are all objects of a class in the official JSON; the label pictures that go with HSNet's lists were
drawn from it and show only the topmost object of a pixel.
"""

from __future__ import annotations

import os
import pickle
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from segcore.data.builtin import builtin_content, datasets_root
from segcore.data.catalog import Source, register_entry
from segcore.data.instance_json import InstanceJson
from segcore.data.metadata import panoptic_metadata

FOLDS = 4
PASCAL_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog",
    "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
)  # fmt: skip
_LISTS = "HSNet's split lists have it: data/splits of github.com/juhongm999/hsnet"


@dataclass(frozen=True)
class PascalFold:
    """The pictures of a fold's list, with their label PNGs; "categories" of a record are the list's."""

    root: str
    fold: int

    def paths(self) -> dict[str, str]:
        folder = Path(self.root) / "voc"
        return {"image_root": str(folder / "JPEGImages"), "sem_seg_root": str(folder / "SegmentationClassAug")}

    def load(self, metadata, problems: list[str] | None = None) -> list[dict]:
        """Raises: FileNotFoundError: no list. ValueError: a line that is not NAME__CC of this fold."""
        path = Path(self.root) / "voc" / "pascal5i" / "val" / f"fold{self.fold}.txt"
        shown: dict[str, set[int]] = defaultdict(set)
        for line in _lines(path):
            name, _, number = line.rpartition("__")
            if not name or not number.isdigit() or (int(number) - 1) // 5 != self.fold:
                raise ValueError(f"{path}: {line!r} is not NAME__CC with a class of fold {self.fold}")
            shown[name].add(int(number))
        places = self.paths()
        return [
            {
                "file_name": os.path.join(places["image_root"], f"{name}.jpg"),
                "image_id": name,
                "sem_seg_file_name": os.path.join(places["sem_seg_root"], f"{name}.png"),
                "label_classes": {value: value for value in range(len(PASCAL_CLASSES) + 1)},
                "ignored_labels": (255,),
                "categories": sorted(classes),
            }
            for name, classes in shown.items()
        ]


@dataclass(frozen=True)
class CocoFold:
    """The pictures of a fold's list, with the objects of the official JSON."""

    root: str
    fold: int

    def paths(self) -> dict[str, str]:
        folder = Path(self.root) / "coco"
        return {
            "image_root": str(folder / "val2014"),
            "json_file": str(folder / "annotations" / "instances_val2014.json"),
        }

    def load(self, metadata, problems: list[str] | None = None) -> list[dict]:
        """Raises: FileNotFoundError, ValueError: a list or annotation that is not there or not what it should be."""
        path = Path(self.root) / "coco" / "coco20i" / "val" / f"fold{self.fold}.pkl"
        shown: dict[str, set[int]] = defaultdict(set)
        for number, files in _read_class_lists(path).items():
            if number % FOLDS == self.fold:
                for file in files:
                    shown[Path(file).name].add(number)
        places = self.paths()
        records = InstanceJson(places["image_root"], places["json_file"]).load(metadata, problems)
        records = [r for r in records if Path(r["file_name"]).name in shown]
        lacking = len(shown) - len(records)
        if lacking:
            raise ValueError(f"{places['json_file']} lacks {lacking} of the {len(shown)} pictures that {path} lists")
        return [{**r, "categories": sorted(shown[Path(r["file_name"]).name])} for r in records]


@dataclass(frozen=True)
class FssClasses:
    """The pictures of the listed classes, ten of each, with a mask PNG each."""

    root: str
    split: str

    def paths(self) -> dict[str, str]:
        return {"image_root": str(Path(self.root) / "fss1000")}

    def load(self, metadata, problems: list[str] | None = None) -> list[dict]:
        """Raises: FileNotFoundError: the list, or a class's pictures or masks, are not there."""
        folder = Path(self.root) / "fss1000"
        records = []
        for number, name in enumerate(_lines(folder / f"{self.split}.txt")):
            pictures = sorted((folder / name).glob("*.jpg"), key=lambda p: (len(p.stem), p.stem))
            if not pictures:
                raise FileNotFoundError(f"{folder / name} holds no .jpg; FSS-1000 has ten pictures of each class")
            for picture in pictures:
                mask = picture.with_suffix(".png")
                if not mask.is_file():
                    raise FileNotFoundError(f"{picture} has no mask {mask.name} beside it")
                records.append({
                    "file_name": str(picture),
                    "image_id": f"{name}/{picture.stem}",
                    "mask_file_name": str(mask),
                    "mask_threshold": 128,  # its masks have soft edges
                    "category_id": number,
                    "class_name": name,
                })
        return records


@dataclass(frozen=True)
class Folds:
    """All folds; they share no record, since each asks for other classes of a picture."""

    folds: tuple[Any, ...]

    def paths(self) -> dict[str, str]:
        return self.folds[0].paths()

    def load(self, metadata, problems: list[str] | None = None) -> list[dict]:
        return [record for fold in self.folds for record in fold.load(metadata, problems)]


def register_few_shot_sets() -> None:
    """Register the benchmarks; may be called any number of times, and reads nothing."""
    pascal = [{"id": i, "name": n, "isthing": 0} for i, n in enumerate(("background", *PASCAL_CLASSES))]
    coco = [c for c in builtin_content("coco")["categories"] if c["isthing"]]
    _register_folds("pascal5i", PascalFold, pascal, lambda fold: PASCAL_CLASSES[5 * fold : 5 * fold + 5])
    _register_folds("coco20i", CocoFold, coco, lambda fold: [c["name"] for c in coco[fold::FOLDS]])
    metadata = panoptic_metadata([{"id": 1, "name": "the class of the picture's folder", "isthing": 0}])
    register_entry("fss1000_test", lambda: FssClasses(datasets_root(), "test"), metadata)


def _register_folds(name: str, source: Callable, categories: list[dict], asked: Callable[[int], Any]) -> None:
    metadata = panoptic_metadata(categories)
    folds = [f"{name}_fold{fold}" for fold in range(FOLDS)]
    for fold, fold_name in enumerate(folds):
        locate = partial(_locate_fold, source, fold)
        register_entry(fold_name, locate, {**metadata, "asked_classes": list(asked(fold))})
    register_entry(name, partial(_locate_all, source), {**metadata, "folds": folds})


def _locate_fold(source: Callable, fold: int) -> Source:
    return source(datasets_root(), fold)


def _locate_all(source: Callable) -> Source:
    return Folds(tuple(source(datasets_root(), fold) for fold in range(FOLDS)))


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no list {path}; {_LISTS}")
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


class _PlainUnpickler(pickle.Unpickler):
    """Dicts, lists, strings and numbers; a pickle that names a function could run it."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which a list of files does not need")


def _read_class_lists(path: Path) -> dict[int, list[str]]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no list {path}; {_LISTS}")
    try:
        with open(path, "rb") as file:
            lists = _PlainUnpickler(file).load()
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the list {path}: {error}; {_LISTS}") from error
    if not isinstance(lists, dict) or not all(isinstance(key, int) for key in lists):
        raise ValueError(f"{path} holds a {type(lists).__name__}, not files by class number; {_LISTS}")
    return lists
